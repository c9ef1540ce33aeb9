"""The strategies: one file each, named in ``registry``."""
