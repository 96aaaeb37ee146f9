//! What page tables and books cost per area, counted in frames.

use kspace::vmalloc::AreaRequest;
use kspace_layout::{FRAME_SIZE, VirtAddr};

use super::account::Account;
use crate::info;
use crate::memory;

/// Areas per figure, as many as Linux's long list has.
const AREAS: u64 = 15_000;

/// Makes many areas of one page, and of sixteen, and counts the frames that are gone beside theirs.
pub(super) fn run() -> bool {
    [1, 16].into_iter().all(count)
}

fn count(pages: u64) -> bool {
    let (Some(areas), Some(memory)) = (crate::vmalloc::get(), memory::get()) else {
        return false;
    };
    let before = Account::take(areas, memory);
    let free = memory.free_frames();
    let mut last: Option<VirtAddr> = None;
    let mut made = 0;
    while made < AREAS {
        let Ok(area) = areas.allocate(&AreaRequest::new(pages * FRAME_SIZE)) else {
            break;
        };
        let link = last.map_or(0, VirtAddr::as_u64);
        // SAFETY: the area is mapped and this function's alone; its first word has the area before it.
        unsafe { (area.start().as_u64() as *mut u64).write_volatile(link) };
        last = Some(area.start());
        made += 1;
    }
    let gone = free.saturating_sub(memory.free_frames());
    let bytes = gone.saturating_sub(made * pages) * FRAME_SIZE;
    while let Some(start) = last {
        // SAFETY: the loop above wrote it.
        let link = unsafe { (start.as_u64() as *const u64).read_volatile() };
        last = VirtAddr::try_new(link).ok().filter(|_| link != 0);
        // SAFETY: made above, and used no more.
        if let Err(error) = unsafe { areas.free(start) } {
            info!("test-vmalloc: bookkeeping: {error}");
            return false;
        }
    }
    info!(
        "test-vmalloc: bookkeeping: {made} areas of {pages} pages: {bytes} bytes of page tables and books, {} for each area",
        bytes / made.max(1)
    );
    made == AREAS && before.is_same_as(&Account::take(areas, memory))
}
