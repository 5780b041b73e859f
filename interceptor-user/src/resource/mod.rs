//! What people write: one API kind a file.
