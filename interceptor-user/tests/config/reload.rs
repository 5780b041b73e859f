//! Files: loading and watching them.
