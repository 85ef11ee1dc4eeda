"""The commands: a dataclass each; its fields are the options, its call does the work and imports torch only then."""
