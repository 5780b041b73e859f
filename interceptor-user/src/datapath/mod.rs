//! The only module that names aya: load, attach, maps, original destinations.
