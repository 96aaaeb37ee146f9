//! What a purge does with blocks: it flushes what was unmapped in them, and makes those that are done empty chunks again.

use super::account::Account;
use crate::vmalloc::Kernel;
use crate::vmalloc::chunk::Chunk;
use crate::vmalloc::pages::Pages;
use crate::vmalloc::purge::Purged;
use crate::vmalloc::slot::AreaWord;
use crate::vmalloc::state::Vmalloc;
use crate::vmalloc::sync::Ordering;

impl<'a, K: Kernel, const CPUS: usize> Vmalloc<'a, K, CPUS> {
    /// Takes the blocks of all CPUs away, so that those in which nothing is mapped are given up with the purge that begins.
    pub(in crate::vmalloc) fn close_blocks(&self) {
        let _off = self.off();
        for arena in self.arenas() {
            if let Some(closed) = arena.block().exchange(0) {
                self.close_block(closed);
            }
        }
    }

    /// Before the shootdown, when the mark is off: takes down how far a block has come. Whether the chunk is one.
    pub(in crate::vmalloc) fn take_account(&self, chunk: Chunk<'a>) -> bool {
        let taken = Account::take(chunk.account());
        chunk.set_taken(taken.raw());
        taken.is_some()
    }

    /// After the shootdown. Whether the chunk is a block.
    pub(in crate::vmalloc) fn release_block(&self, chunk: Chunk<'a>, purged: &mut Purged) -> bool {
        let taken = Account::from_raw(chunk.taken());
        if !taken.is_some() {
            return false;
        }
        purged.areas += taken.mappings();
        purged.pages += taken.pages();
        if taken.is_done() {
            for slot in chunk.areas() {
                let word = AreaWord::load(slot);
                debug_assert!(!word.is_mapped(), "a block is done, and has a mapping");
                if word.is_lazy() {
                    word.release(slot);
                }
            }
            // All have ended who add to it. Who opens it again takes the pool first.
            chunk.account().store(0, Ordering::Relaxed);
            let off = self.off();
            self.with_pool(&off, |pool| pool.give(self, chunk, Pages::ALL));
        }
        true
    }
}
