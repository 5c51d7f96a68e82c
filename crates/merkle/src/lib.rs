//! Geometry, chaining values, folding and comparison of chunked BLAKE3 trees; pure.
