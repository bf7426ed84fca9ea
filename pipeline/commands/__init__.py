"""What pipelinectl can do, a module for each command; `common` is what they share."""
