//! The kernel's side: callbacks, mounting, invalidation. No decisions.
