"""The suites that come with the package, a TOML file each."""
