//! Flags, environment and files, gathered into values that stay as they are.
