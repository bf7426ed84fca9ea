"""Files of any size in parts, as S3 takes and gives them: how large a part is, and how many move at once."""

from boto3.s3.transfer import TransferConfig

MULTIPART_BYTES = 100 * 2**20  # a larger file goes up in parts
LEAST_PART_BYTES = 16 * 2**20
PARTS_IN_MEMORY = 4  # of an archive that may change while it goes up
MOST_PARTS = 1000  # OpenStack Swift's limit; AWS allows 10,000


def part_bytes(size: int) -> int:
    """The size of one part of a file of `size` bytes: whole MiB, at most `MOST_PARTS` of them."""
    mebibyte = 2**20
    needed = -(-size // MOST_PARTS)
    return max(LEAST_PART_BYTES, -(-needed // mebibyte) * mebibyte)


def transfer_config(size: int, tries: int) -> TransferConfig:
    """How a file of `size` bytes moves; a part that breaks off is fetched so many times."""
    settings = TransferConfig(
        multipart_threshold=MULTIPART_BYTES + 1,
        multipart_chunksize=part_bytes(size),
        max_concurrency=8,
        io_chunksize=2**20,
        max_io_queue=16,  # of these pieces, so many wait to be written
        num_download_attempts=tries,
    )
    settings.max_in_memory_upload_chunks = PARTS_IN_MEMORY
    return settings
