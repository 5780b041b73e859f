//! Mistakes: each is named with file, line, column and field, and leaves everything else working.
