//! Block devices and image files: guarded opening, aligned reading, writing, zeroing, flushing and reading back.
