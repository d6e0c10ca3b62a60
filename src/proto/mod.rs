//! The wire side.
