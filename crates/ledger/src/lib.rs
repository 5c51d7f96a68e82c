//! A node's durable record of what its volumes hold; the only crate that can say consistent.
