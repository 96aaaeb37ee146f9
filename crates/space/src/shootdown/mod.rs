//! Shootdown: making every CPU forget translations, before what they led to is used for something else.
//!
//! An edit of page tables leaves stale translations in the TLBs of all CPUs, and x86 has no instruction that reaches another CPU's.
//! So who edits asks the others, by interrupt, and waits until each has answered. [`Shootdown`] is that protocol; [`Quarantine`]
//! collects what waits for it, so that one flush does for many edits.
//!
//! ```text
//!   who edits (post.rs)                                   every other CPU (catch_up.rs, standing.rs)
//!
//!   changes the entries
//!   takes generation g                 \                  serve, by interrupt or while it waits itself:
//!   publishes the request in slot g     | ring.rs           reads the last generation
//!   ------------ full fence -----------/                    forgets what the slots since its own ask for
//!   looks who is active, interrupts                         says: seen = that generation
//!   forgets here, too                                     lazy: does nothing of this until it becomes active again:
//!   serves and waits until all have seen >= g               says "active" --- full fence --- and catches up
//!   gives frames and tables back
//! ```
//!
//! # The rules
//!
//! 1. **What is freed is not reused before the flush on all CPUs.** Tokens own it until then ([`kspace_paging::Flush`]).
//! 2. **A CPU that waits for answers serves requests meanwhile**, with interrupts off too, and those of other protocols as well
//!    ([`Tlb::serve_others`](crate::platform::Tlb::serve_others)). Otherwise two CPUs that wait for each other would wait forever.
//! 3. **Nobody waits for a flush in atomic context**: with a spin lock held, or in an interrupt handler. A CPU that spins for that
//!    lock with interrupts off would never answer. [`Cpu::is_atomic`](crate::platform::Cpu::is_atomic) tells; with debug assertions the
//!    wait panics, else it is reported and done nevertheless, which mostly works. What must be freed there goes to a quarantine.
//! 4. **A request that frees tables passes nobody over who may walk them**: not a lazy CPU, nor one on its way to joining. A CPU walks
//!    speculatively, through upper-level entries it has kept, and sets accessed bits in the table it finds; in a frame that is
//!    something else by now. A request that frees only pages may pass lazy CPUs over: they use no stale translation, having caught up
//!    before they use any.
//! 5. **What waits for a flush is bounded**: a [`Quarantine`] has fixed room, and asks for a flush at a number of frames
//!    ([`quarantine_bound`]).
//! 6. **A CPU that has stopped for good is waited for by nobody** ([`Shootdown::gone`]).
//!
//! # Why it is enough
//!
//! *Whoever sees a generation can forget what it asks for.* It was taken after its entries were changed, by a locked instruction, so a
//! CPU that has read it walks the new entries from then on; invalidating *then* removes the old ones for good. What exactly to
//! invalidate is in the slot, but only as a hint to do less: a slot that is overwritten, or not yet published, is answered by
//! forgetting everything, which covers every generation seen. So slots need no lock, and nobody waits for one.
//!
//! *Who is passed over catches up.* The poster takes the generation, fences, and reads that the CPU is lazy; the CPU says that it is
//! active, fences, and reads the generation. Of two such fences one is first: either the poster sees the CPU active, and interrupts
//! it, or the CPU sees the generation, and catches up (Dekker's argument). A poster that has seen it active goes on waiting until it
//! answers, or goes lazy after all, to which the same applies. Joining is becoming active for the first time, and forgets
//! everything, since nobody knows what the CPU has kept from before.
//!
//! *A wait ends.* Each CPU waited for is interrupted after the generation was taken, so its handler sees it; a CPU that waits itself
//! serves; one that has interrupts off turns them on in the end, by rule 3 without waiting for who waits for it. `seen` never goes
//! back, even when an interrupt comes in the middle of a catch-up, so an answer once given stands. (Within one protocol, who waits for
//! generation `g` has itself come that far, so of all that wait, the one with the first generation waits for none of the
//! others. Between protocols there is no such order, and serving is all that helps.)
//!
//! # PCIDs, global pages, user spaces
//!
//! Each set of translations has a protocol of its own. [`Scope::Shared`] is the kernel's half of the address space: it is in every
//! address space, so it may be cached under every PCID, or as global. [`Scope::Own`] is one user space, under one PCID: CPUs come to it
//! with [`Shootdown::switch_in`] and go with [`Shootdown::switch_out`]; those that keep its translations under their PCID are not
//! interrupted, but load the root with a flush when they come back too late. Which instructions do all this best, with what the
//! CPU has, is decided in `local.rs` and executed by [`Tlb::perform`](crate::platform::Tlb::perform).
//!
//! # What it does not do
//!
//! It does not lock the tables (disjoint edits need no lock, see [`kspace_paging::editor`]), send the interrupt, or know its vector.

#[macro_use]
mod sync;

mod bridge;
mod catch_up;
mod count;
mod holder;
mod local;
mod post;
mod probe;
mod quarantine;
mod request;
mod ring;
mod standing;
mod state;

pub use count::Activity;
pub use holder::Holding;
pub(crate) use local::forget_pages_here;
pub use probe::{Probe, Rule, Step, Unprobed};
pub use quarantine::{Due, Quarantine, Refused, quarantine_bound};
pub use standing::Load;
pub use state::{PAGE_LIMIT, Scope, Shootdown};
