//! Two ends in one process, with nothing between them but bounded queues.

use std::sync::{Arc, Weak};

use crate::end::{End, Lanes, Wire};
use crate::link::{Guard, Link, Via};
use crate::meter::Counters;

/// Two ends of one link. Dropping or closing one makes the other see [`LinkError::Closed`](crate::LinkError::Closed).
pub fn memory_pair() -> (Link, Link) {
    let (there, back) = (Lanes::new(), Lanes::new());
    let near = end(&there, &back);
    let far = end(&back, &there);
    stop_together(&near, &far);
    stop_together(&far, &near);
    (link(near), link(far))
}

fn end(outbound: &Lanes, inbound: &Lanes) -> Arc<End> {
    let counters = Arc::new(Counters::default());
    Arc::new(End::new(
        outbound.clone(),
        inbound.clone(),
        Wire::None,
        counters,
    ))
}

fn link(end: Arc<End>) -> Link {
    Link::new(Arc::new(Guard(end)), Via::Memory)
}

fn stop_together(first: &End, second: &Arc<End>) {
    let second: Weak<End> = Arc::downgrade(second);
    first.on_end(move |error| {
        if let Some(second) = second.upgrade() {
            second.stop_with(error.clone());
        }
    });
}
