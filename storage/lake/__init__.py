"""The lake: units committed whole, manifest, parts, compaction, run lock."""
