//! The slab: which frames there are, and which of their nodes are used.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use kspace_layout::{FRAME_SIZE, PhysAddr};
use kspace_paging::{FrameSource, PhysMemory};

/// Words of a node.
pub(crate) const NODE_WORDS: usize = 8;
/// Bytes of a node: a cache line of every x86 that runs this.
const NODE_BYTES: u64 = 8 * NODE_WORDS as u64;
/// Nodes of a frame. The header takes the place of one.
pub(crate) const NODES_PER_FRAME: u64 = FRAME_SIZE / NODE_BYTES - 1;

/// A node's words. What was in them when the node was taken is anybody's guess.
pub(crate) type Words = [AtomicU64; NODE_WORDS];

/// Which node: where its words lie in physical memory.
///
/// # Invariants
///
/// A multiple of 64 bytes and not the start of a frame, which is the header's place: so never 0.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct NodeId(PhysAddr);

impl NodeId {
    /// The id as a word of another node. 0 says "none".
    #[inline]
    pub(crate) fn to_word(id: Option<Self>) -> u64 {
        id.map_or(0, |id| id.0.as_u64())
    }

    /// The id that [`to_word`](Self::to_word) wrote.
    #[inline]
    pub(crate) fn from_word(word: u64) -> Option<Self> {
        (word != 0).then(|| Self(PhysAddr::new(word)))
    }

    fn of(frame: PhysAddr, index: u32) -> Self {
        Self(PhysAddr::new(
            frame.as_u64() + u64::from(index) * NODE_BYTES,
        ))
    }

    fn frame(self) -> PhysAddr {
        self.0.align_down(FRAME_SIZE)
    }

    /// The node's bit in its frame's header.
    fn bit(self) -> u64 {
        1 << (self.0.as_u64() % FRAME_SIZE / NODE_BYTES)
    }
}

/// The source has no frame left (or only one that the memory does not reach). Nothing was changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct NoFrame;

/// Header words. `USED`: a bit for each node; bit 0, the header itself, is always set.
const USED: usize = 0;
/// The next frame of the list (see [`Slab::link_word`]).
const NEXT: usize = 1;
/// The previous frame of the list.
const PREVIOUS: usize = 2;

/// How full a frame is: the list that it is in.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Filling {
    Empty,
    Partial,
    Full,
}

impl Filling {
    const ALL: [Self; 3] = [Self::Empty, Self::Partial, Self::Full];

    const fn of(used: u64) -> Self {
        match used {
            1 => Self::Empty,
            u64::MAX => Self::Full,
            _ => Self::Partial,
        }
    }
}

/// Nodes in frames of `F`, reached through `M`. Dropping it gives all frames back.
pub(crate) struct Slab<'a, M: PhysMemory, F: FrameSource> {
    memory: &'a M,
    frames: F,
    /// First frame of each [`Filling`], as a link word.
    lists: [u64; 3],
    frame_count: u64,
}

impl<'a, M: PhysMemory, F: FrameSource> Slab<'a, M, F> {
    /// No nodes, no frames.
    pub(crate) const fn new(memory: &'a M, frames: F) -> Self {
        Self {
            memory,
            frames,
            lists: [0; 3],
            frame_count: 0,
        }
    }

    /// How many nodes there are, used and unused.
    pub(crate) const fn capacity(&self) -> u64 {
        self.frame_count * NODES_PER_FRAME
    }

    /// The memory that the nodes take.
    pub(crate) const fn bytes(&self) -> u64 {
        self.frame_count * FRAME_SIZE
    }

    /// Sees to it that there are `nodes` nodes, used and unused together.
    ///
    /// # Errors
    ///
    /// [`NoFrame`]; then as many frames are held as before.
    #[inline]
    pub(crate) fn reserve(&mut self, nodes: u64) -> Result<(), NoFrame> {
        if nodes <= self.capacity() {
            return Ok(());
        }
        self.grow(nodes)
    }

    #[cold]
    fn grow(&mut self, nodes: u64) -> Result<(), NoFrame> {
        let before = self.frame_count;
        while self.capacity() < nodes {
            if !self.add_frame() {
                while self.frame_count > before {
                    self.remove_empty_frame();
                }
                return Err(NoFrame);
            }
        }
        Ok(())
    }

    /// Gives frames without a used node back, as long as `nodes` nodes and half a frame more stay: so that a caller at the edge
    /// does not take and give the same frame over and over.
    #[inline]
    pub(crate) fn trim(&mut self, nodes: u64) {
        while self.lists[Filling::Empty as usize] != 0
            && self.capacity() >= nodes + NODES_PER_FRAME + NODES_PER_FRAME / 2
        {
            self.remove_empty_frame();
        }
    }

    /// An unused node; `None` when all are used.
    pub(crate) fn take(&mut self) -> Option<NodeId> {
        let frame = self
            .first(Filling::Partial)
            .or_else(|| self.first(Filling::Empty))?;
        let header = self.header(frame);
        let used = header[USED].load(Relaxed);
        let index = used.trailing_ones();
        self.set_used(frame, used, used | 1 << index);
        Some(NodeId::of(frame, index))
    }

    /// Takes a node back.
    ///
    /// # Panics
    ///
    /// When it is not in use.
    pub(crate) fn put(&mut self, node: NodeId) {
        let frame = node.frame();
        let used = self.header(frame)[USED].load(Relaxed);
        assert!(used & node.bit() != 0, "{node:?} is put back twice");
        self.set_used(frame, used, used & !node.bit());
    }

    /// The node's words.
    #[inline]
    pub(crate) fn words(&self, node: NodeId) -> &'a Words {
        self.words_at(node.0)
    }

    fn header(&self, frame: PhysAddr) -> &'a Words {
        self.words_at(frame)
    }

    #[inline]
    fn words_at(&self, start: PhysAddr) -> &'a Words {
        self.memory
            .entries::<u64>(start, NODE_WORDS)
            .and_then(|words| words.try_into().ok())
            .expect("the frame was reached when it was added")
    }

    /// Writes a frame's header, and moves it to the list that it now belongs in.
    fn set_used(&mut self, frame: PhysAddr, before: u64, after: u64) {
        self.header(frame)[USED].store(after, Relaxed);
        let (from, to) = (Filling::of(before), Filling::of(after));
        if from != to {
            self.unlink(from, frame);
            self.link(to, frame);
        }
    }

    fn add_frame(&mut self) -> bool {
        let Some(frame) = self.frames.allocate() else {
            return false;
        };
        if self
            .memory
            .entries::<u64>(frame, FRAME_SIZE as usize / 8)
            .is_none()
        {
            self.frames.release(frame);
            return false;
        }
        self.header(frame)[USED].store(1, Relaxed);
        self.link(Filling::Empty, frame);
        self.frame_count += 1;
        true
    }

    fn remove_empty_frame(&mut self) {
        if let Some(frame) = self.first(Filling::Empty) {
            self.unlink(Filling::Empty, frame);
            self.frames.release(frame);
            self.frame_count -= 1;
        }
    }

    fn link(&mut self, filling: Filling, frame: PhysAddr) {
        let head = self.lists[filling as usize];
        let header = self.header(frame);
        header[NEXT].store(head, Relaxed);
        header[PREVIOUS].store(0, Relaxed);
        if let Some(next) = Self::linked(head) {
            self.header(next)[PREVIOUS].store(Self::link_word(frame), Relaxed);
        }
        self.lists[filling as usize] = Self::link_word(frame);
    }

    fn unlink(&mut self, filling: Filling, frame: PhysAddr) {
        let header = self.header(frame);
        let (next, previous) = (header[NEXT].load(Relaxed), header[PREVIOUS].load(Relaxed));
        match Self::linked(previous) {
            Some(previous) => self.header(previous)[NEXT].store(next, Relaxed),
            None => self.lists[filling as usize] = next,
        }
        if let Some(next) = Self::linked(next) {
            self.header(next)[PREVIOUS].store(previous, Relaxed);
        }
    }

    fn first(&self, filling: Filling) -> Option<PhysAddr> {
        Self::linked(self.lists[filling as usize])
    }

    /// A frame as a link: its address plus 1, because a frame may lie at 0, and 0 ends a list.
    const fn link_word(frame: PhysAddr) -> u64 {
        frame.as_u64() + 1
    }

    fn linked(word: u64) -> Option<PhysAddr> {
        word.checked_sub(1).map(PhysAddr::new)
    }
}

impl<M: PhysMemory, F: FrameSource> Drop for Slab<'_, M, F> {
    fn drop(&mut self) {
        for filling in Filling::ALL {
            while let Some(frame) = self.first(filling) {
                self.unlink(filling, frame);
                self.frames.release(frame);
            }
        }
    }
}
