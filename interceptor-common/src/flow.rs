//! What a program knows of one connect(2) when it decides.

use crate::addr::{Ip16, Port};

/// One TCP connection as the application asked for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    pub destination: Ip16,
    pub port: Port,
}
