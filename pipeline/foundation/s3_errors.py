"""What an error of S3 means, by its code and status alone; and the keys that no object can have."""

import re

from botocore.exceptions import ClientError

from pipeline.foundation.errors import Outage, Permanent

MOST_KEY_BYTES = 1024
NOT_IN_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")  # S3 answers in XML 1.0 (section 2.2)


def code_of(error: ClientError) -> str:
    """S3's own code of an error, such as NoSuchKey."""
    return str(error.response.get("Error", {}).get("Code"))


def status_of(error: ClientError) -> int:
    """The status of the answer; 0 where there was none."""
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def refused_setting(error: ClientError, bucket: str, endpoint: str, region: str) -> str | None:
    """What of the settings S3 does not accept, in one line; other errors are raised again."""
    told = error.response.get("Error", {})
    code, status = code_of(error), status_of(error)
    where = f"S3_BUCKET {bucket!r} at {endpoint}"
    if code == "RequestTimeTooSkewed":
        raise Outage("the clock", f"S3 and this host differ by too much time ({code})") from error
    if code == "AuthorizationHeaderMalformed" and "Region" in told:
        return f"S3_REGION is {region!r}: S3 asks for {told['Region']!r}"
    if code == "AuthorizationHeaderMalformed" or status in (401, 403):
        return f"{where}: the credentials are refused ({code})"
    if status in (301, 308):
        return f"{where}: it is elsewhere: see S3_ENDPOINT and S3_REGION ({code})"
    if status == 404:
        return f"{where}: there is no such bucket"
    raise error


def check_key(key: str) -> None:
    """`Permanent` where no object can be called so."""
    try:
        if 0 < len(key.encode()) <= MOST_KEY_BYTES and not NOT_IN_XML.search(key):
            return
    except UnicodeEncodeError:
        pass
    raise Permanent(f"{key[:100]!r} cannot be the key of an object: it is empty, too long or not text")
