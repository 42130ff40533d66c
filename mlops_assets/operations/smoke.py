"""Does what is in service answer as it should? The golden rows of a release, asked over HTTP, or of the bundle where nothing serves."""
