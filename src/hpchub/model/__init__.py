"""The content of an inventory: fields, entries, rules between entries, and the profile list. No I/O."""
