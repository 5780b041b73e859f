//! Names to addresses: one resolver for the whole process.
