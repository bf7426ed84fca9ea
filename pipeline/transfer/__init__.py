"""From the EC2 host to S3: what is new there, its copy, its upload."""
