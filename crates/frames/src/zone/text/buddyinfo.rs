//! `/proc/buddyinfo` (`frag_show_print`, mm/vmstat.c).

use core::fmt;

use crate::zone::{ZoneFrames, Zones};

/// The text of `/proc/buddyinfo`: how many free blocks of each order every zone has.
#[derive(Clone, Copy)]
pub struct Buddyinfo<'a, A>(pub &'a Zones<'a, A>);

impl<A: ZoneFrames> fmt::Display for Buddyinfo<'_, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kinds = self.0.limits().kinds().iter();
        let places = self
            .0
            .nodes()
            .flat_map(|node| kinds.clone().map(move |kind| (node, *kind)));
        for zone in places.filter_map(|(node, kind)| self.0.populated(node, kind)) {
            write!(f, "Node {}, zone {:>8} ", zone.node(), zone.kind())?;
            for count in zone.frames().free_blocks() {
                write!(f, "{count:>6} ")?;
            }
            f.write_str("\n")?;
        }
        Ok(())
    }
}

impl<A> fmt::Debug for Buddyinfo<'_, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Buddyinfo")
    }
}
