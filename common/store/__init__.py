"""One store over local files and S3: keys, versions, conditional puts."""
