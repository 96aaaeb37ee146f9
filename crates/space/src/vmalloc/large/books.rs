//! The books on large areas: a search tree by address, in nodes of eight words.
//!
//! ```text
//!   word   0      1      2 3 4            5                                  6                  7
//!          first  pages  links of         who, what, in which state          the next one in    user mappings;
//!          page          the tree                                            the list           above, the maker
//!
//!   word 5    63                    32 31   18     17      16   15     8 7     2 1     0
//!             |  caller, as in slot   |       | changed | user | node+1 | kind  | state |
//! ```
//!
//! ```text
//!   add                    take                  defer                      gather                forget
//!   -------> Live ----------------> Leaving -----------> Lazy, in the list --------> in the batch ----------> no node
//!                  (one freer wins)  entries are parked
//! ```
//!
//! A node stays in the tree until its area is purged, so that who frees it again meanwhile learns who was first.
//!
//! An area that user spaces map is Lazy, too, when it is freed, but comes into the list only when the last of these mappings is gone.

use core::sync::atomic::Ordering::Relaxed;

use kspace_frames::zone::NodeId as MemoryNode;
use kspace_layout::{FRAME_SIZE, VirtAddr, VirtRange};
use kspace_paging::{Flush, FrameSource, PhysMemory};

use crate::ranges::tree::{ByAddress, Span, Tree, page};
use crate::vmalloc::caller::Caller;
use crate::vmalloc::error::FreeProblem;
use crate::vmalloc::{AreaInfo, AreaRequest, Kind, State};
use crate::words::{NodeId, Slab, Words};

const PAGES: usize = 1;
const RECORD: usize = 5;
const NEXT: usize = 6;
/// How many user mappings there are, and from [`CALLER_SHIFT`] on, who made an area that is freed.
const USERS: usize = 7;

const STATE: u64 = 0b11;
const LIVE: u64 = 1;
/// Freed, and its entries are being parked.
const LEAVING: u64 = 2;
/// Freed and parked.
const LAZY: u64 = 3;

const KIND_SHIFT: u32 = 2;
const KIND_MASK: u64 = 0x3f;
const NODE_SHIFT: u32 = 8;
const NODE_MASK: u64 = 0xff;
/// The area may be mapped in user spaces.
const USER: u64 = 1 << 16;
/// Pages of the area are changed, and it cannot be freed.
const CHANGED: u64 = 1 << 17;
const CALLER_SHIFT: u32 = 32;

/// An area in the books. Only who took it, or purges it, may use it.
#[derive(Clone, Copy)]
pub(in crate::vmalloc) struct Entry {
    node: NodeId,
    pub(super) range: VirtRange,
    pub(super) kind: Kind,
}

/// A place in the source, if it is known.
type Place = Option<&'static core::panic::Location<'static>>;

/// The tree, and what waits for the purge.
pub(super) struct Books<'a, M: PhysMemory, F: FrameSource> {
    memory: &'a M,
    slab: Slab<'a, M, &'a F>,
    tree: Tree<ByAddress>,
    /// Nodes in the tree.
    nodes: u64,
    live: u64,
    live_pages: u64,
    /// The first lazy one, as a word.
    lazy: u64,
    /// What CPUs may still know of the lazy ones.
    owed: Flush,
    /// The first one of the purge under way.
    batch: u64,
    /// The first one of those that wait for the flush of their page tables.
    held: u64,
    /// What that purge has asked the CPUs to forget.
    asked: Flush,
}

impl<'a, M: PhysMemory, F: FrameSource> Books<'a, M, F> {
    pub(super) const fn new(memory: &'a M, frames: &'a F) -> Self {
        Self {
            memory,
            slab: Slab::new(memory, frames),
            tree: Tree::new(),
            nodes: 0,
            live: 0,
            live_pages: 0,
            lazy: 0,
            owed: Flush::nothing(),
            batch: 0,
            held: 0,
            asked: Flush::nothing(),
        }
    }

    /// Live areas, and their pages.
    pub(super) const fn live(&self) -> (u64, u64) {
        (self.live, self.live_pages)
    }

    /// Makes an area known; `false` when there is no frame for the node.
    #[must_use]
    pub(super) fn add(&mut self, range: VirtRange, request: &AreaRequest, caller: Caller) -> bool {
        if self.slab.reserve(self.nodes + 1).is_err() {
            return false;
        }
        let (Some(node), Some(span)) = (self.slab.take(), Span::of(range)) else {
            return false;
        };
        let words = self.slab.words(node);
        span.store(words);
        let near = request.node.map_or(0, |node| u64::from(node.get()) + 1);
        let record = LIVE
            | (request.kind as u64) << KIND_SHIFT
            | near << NODE_SHIFT
            | if request.user { USER } else { 0 }
            | u64::from(caller.raw()) << CALLER_SHIFT;
        words[RECORD].store(record, Relaxed);
        words[USERS].store(0, Relaxed);
        self.tree.insert(&self.slab, node);
        self.nodes += 1;
        self.live += 1;
        self.live_pages += span.pages;
        true
    }

    /// Takes the area that begins at `start` from its owner, in the name of `caller`.
    pub(super) fn take(&mut self, start: VirtAddr, caller: Caller) -> Result<Entry, FreeProblem> {
        let node = self.around(start).ok_or(FreeProblem::NoArea)?;
        let words = self.slab.words(node);
        let record = words[RECORD].load(Relaxed);
        let entry = self.entry(node);
        if record & STATE != LIVE && entry.range.start() == start {
            return Err(FreeProblem::Freed {
                by: caller_of(record),
                range: entry.range,
            });
        }
        if entry.range.start() != start {
            // A freed area has no inside any more.
            return Err(if record & STATE == LIVE {
                FreeProblem::Inside(entry.range)
            } else {
                FreeProblem::NoArea
            });
        }
        if record & CHANGED != 0 {
            return Err(FreeProblem::Changed(entry.range));
        }
        let maker = record & !((1 << CALLER_SHIFT) - 1);
        words[USERS].store(maker | users(words), Relaxed);
        let kept = record & !STATE & ((1 << CALLER_SHIFT) - 1);
        let freed = kept | LEAVING | u64::from(caller.raw()) << CALLER_SHIFT;
        words[RECORD].store(freed, Relaxed);
        self.live -= 1;
        self.live_pages -= entry.range.size() / FRAME_SIZE;
        Ok(entry)
    }

    /// Leaves a taken area, whose entries are parked, to the purge: at once, or when the last user mapping of it goes. `token` is what
    /// parking them asks for. Whether the purge has it now.
    pub(super) fn defer(&mut self, entry: Entry, token: Flush) -> bool {
        let words = self.slab.words(entry.node);
        let record = words[RECORD].load(Relaxed);
        words[RECORD].store(record & !STATE | LAZY, Relaxed);
        self.owed.absorb(token, self.memory);
        let purge = users(words) == 0;
        if purge {
            self.push_lazy(entry.node);
        }
        purge
    }

    fn push_lazy(&mut self, node: NodeId) {
        self.slab.words(node)[NEXT].store(self.lazy, Relaxed);
        self.lazy = NodeId::to_word(Some(node));
    }

    /// Makes all lazy areas the purge's, and tells what the CPUs must forget for them, which may be nothing; `None` when there are none.
    pub(super) fn gather(&mut self) -> Option<Option<kspace_paging::Invalidation>> {
        if self.lazy == 0 {
            return None;
        }
        self.batch = core::mem::take(&mut self.lazy);
        // Nothing, when a user mapping has kept its area for longer than the flush of the area's own entries took.
        self.asked = core::mem::replace(&mut self.owed, Flush::nothing());
        Some(self.asked.invalidation().copied())
    }

    /// Counts one more user mapping of the area that begins at `start`. `Err`: what is there instead of a live area for user spaces.
    pub(super) fn hold_for_user(&mut self, start: VirtAddr) -> Result<Entry, Option<AreaInfo>> {
        let node = self.around(start).ok_or(None)?;
        let words = self.slab.words(node);
        let entry = self.entry(node);
        let record = words[RECORD].load(Relaxed);
        if record & STATE != LIVE || record & USER == 0 || entry.range.start() != start {
            return Err(Some(self.info(node)));
        }
        words[USERS].store(words[USERS].load(Relaxed) + 1, Relaxed);
        Ok(entry)
    }

    /// Counts one user mapping less of the area that begins at `start`. When it was the last, and the area has been freed meanwhile: its
    /// pages, which now wait for the purge. `None`: there is no such mapping.
    pub(super) fn release_for_user(&mut self, start: VirtAddr) -> Option<u64> {
        let node = self.around(start)?;
        let words = self.slab.words(node);
        let entry = self.entry(node);
        let left = users(words).checked_sub(1)?;
        if entry.range.start() != start {
            return None;
        }
        words[USERS].store(words[USERS].load(Relaxed) - 1, Relaxed);
        if left > 0 || words[RECORD].load(Relaxed) & STATE != LAZY {
            return Some(0);
        }
        self.push_lazy(node);
        Some(entry.range.size() / FRAME_SIZE)
    }

    /// Whether an area may be mapped in user spaces.
    pub(super) fn is_for_users(&self, entry: Entry) -> bool {
        self.slab.words(entry.node)[RECORD].load(Relaxed) & USER != 0
    }

    /// The token of the areas that the purge has, which has seen to its flush.
    pub(super) fn flushed(&mut self) -> Flush {
        core::mem::replace(&mut self.asked, Flush::nothing())
    }

    /// The next area of the purge; it is the caller's then.
    pub(super) fn next_of_batch(&mut self) -> Option<Entry> {
        let node = NodeId::from_word(self.batch)?;
        self.batch = self.slab.words(node)[NEXT].load(Relaxed);
        Some(self.entry(node))
    }

    /// Puts an area of the purge aside, until its page tables are flushed.
    pub(super) fn hold(&mut self, entry: Entry) {
        self.slab.words(entry.node)[NEXT].store(self.held, Relaxed);
        self.held = NodeId::to_word(Some(entry.node));
    }

    /// Who made a freed area, and who freed it.
    pub(super) fn callers(&self, entry: Entry) -> [Place; 2] {
        let words = self.slab.words(entry.node);
        [USERS, RECORD].map(|word| caller_of(words[word].load(Relaxed)))
    }

    /// The next area that was put aside; it is the caller's then.
    pub(super) fn next_held(&mut self) -> Option<Entry> {
        let node = NodeId::from_word(self.held)?;
        self.held = self.slab.words(node)[NEXT].load(Relaxed);
        Some(self.entry(node))
    }

    /// Strikes out a purged area, whose addresses are still nobody else's.
    pub(super) fn forget(&mut self, entry: Entry) {
        self.tree.remove(&self.slab, entry.node);
        self.slab.put(entry.node);
        self.nodes -= 1;
        self.slab.trim(self.nodes);
    }

    /// The live area that begins at `start`, in this very place as long as its owner does not free it.
    pub(super) fn live_at(&self, start: VirtAddr) -> Option<Entry> {
        let node = self.around(start)?;
        let record = self.slab.words(node)[RECORD].load(Relaxed);
        let entry = self.entry(node);
        (record & STATE == LIVE && entry.range.start() == start).then_some(entry)
    }

    /// Notes of the live area that begins at `start` whether pages of it are changed. False: there is no such area.
    pub(super) fn mark(&mut self, start: VirtAddr, changed: bool) -> bool {
        let Some(entry) = self.live_at(start) else {
            return false;
        };
        let word = &self.slab.words(entry.node)[RECORD];
        let kept = word.load(Relaxed) & !CHANGED;
        word.store(if changed { kept | CHANGED } else { kept }, Relaxed);
        true
    }

    /// Gives a live area other pages at its end. Its owner asked for it.
    pub(super) fn set_pages(&mut self, entry: Entry, pages: u64) {
        let word = &self.slab.words(entry.node)[PAGES];
        self.live_pages = self.live_pages - word.load(Relaxed) + pages;
        word.store(pages, Relaxed);
    }

    /// What is known of the area in which an address lies, guard included.
    pub(super) fn find(&self, address: VirtAddr) -> Option<AreaInfo> {
        self.around(address).map(|node| self.info(node))
    }

    /// What is known of the first area that begins at or after an address.
    pub(super) fn next(&self, from: VirtAddr) -> Option<AreaInfo> {
        let from = from.as_u64().div_ceil(FRAME_SIZE);
        let node = self.tree.at_or_after(&self.slab, from)?;
        Some(self.info(node))
    }

    fn around(&self, address: VirtAddr) -> Option<NodeId> {
        let page = page(address);
        let (below, _, _) = self.tree.around(&self.slab, page);
        // With the guard.
        below.filter(|&node| page <= Span::load(self.slab.words(node)).end())
    }

    fn entry(&self, node: NodeId) -> Entry {
        let words = self.slab.words(node);
        Entry {
            node,
            range: Span::load(words).range(),
            kind: kind_of(words),
        }
    }

    fn info(&self, node: NodeId) -> AreaInfo {
        let words = self.slab.words(node);
        let record = words[RECORD].load(Relaxed);
        let span = Span::load(words);
        let near = (record >> NODE_SHIFT & NODE_MASK).checked_sub(1);
        AreaInfo {
            range: span.range(),
            pages: span.pages,
            kind: kind_of(words),
            node: near.and_then(|node| MemoryNode::try_new(node as u32)),
            state: if record & STATE == LIVE {
                State::Live
            } else {
                State::Freed
            },
            user: record & USER != 0,
            changed: record & CHANGED != 0,
            caller: caller_of(record),
        }
    }
}

fn users(words: &Words) -> u64 {
    words[USERS].load(Relaxed) & ((1 << CALLER_SHIFT) - 1)
}

fn kind_of(words: &Words) -> Kind {
    Kind::from_raw(words[RECORD].load(Relaxed) >> KIND_SHIFT & KIND_MASK)
}

fn caller_of(record: u64) -> Place {
    // What is left of 64 bits after the shift are 32.
    let raw = (record >> CALLER_SHIFT) as u32;
    // SAFETY: records have callers from `Caller::raw` only.
    unsafe { Caller::place(raw) }
}
