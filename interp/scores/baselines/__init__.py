"""Methods that the default is compared with, one file each."""
