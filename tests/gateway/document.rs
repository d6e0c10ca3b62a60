//! The documents of links.
