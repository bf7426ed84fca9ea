"""The read-only web page: what `pipelinectl status`, `failures`, `search` and `show` tell, in a browser."""
