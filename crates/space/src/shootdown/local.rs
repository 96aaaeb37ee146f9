//! From a request to the invalidations that fulfil it on one CPU, with what that CPU has.

use kspace_layout::{PageSize, PagingMode, VirtRange};
use kspace_paging::{Invalidation, Stale};

use super::request::Request;
use super::{PAGE_LIMIT, Scope};
use crate::platform::{LocalFlush, Tlb, TlbFeatures};

/// Makes this CPU alone forget the 4 KiB pages of `range`, which lies in what all address spaces share. For pages that only this CPU
/// accesses; it stays the same meanwhile.
pub(crate) fn forget_pages_here(platform: &impl Tlb, range: VirtRange) {
    let stale = Stale {
        range,
        page: PageSize::Size4K,
        global: true,
        tables: false,
        root: false,
    };
    let request = Request::new(&Invalidation::Range(stale), PAGE_LIMIT);
    match way(platform.features(), Scope::Shared, request) {
        Way::Pages => request
            .addresses()
            .for_each(|address| platform.perform(LocalFlush::Page(address))),
        Way::Whole(flush) => platform.perform(flush),
    }
}

/// How a request is fulfilled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// Page by page.
    Pages,
    /// All at once, by this.
    Whole(LocalFlush),
}

/// How to fulfil `request` about the translations of `scope`, on the CPU on which they are current.
pub(super) fn way(features: TlbFeatures, scope: Scope, request: Request) -> Way {
    let one_by_one = request.pages.is_some() && reached_by_pages(features, scope, request);
    if one_by_one {
        Way::Pages
    } else {
        Way::Whole(whole(features, scope, request.global))
    }
}

/// Whether the root must be loaded besides: only that makes a CPU read PAE's root entries.
pub(super) fn needs_root(features: TlbFeatures, request: Request, way: Way) -> bool {
    request.root && features.mode == PagingMode::Pae && way != Way::Whole(LocalFlush::LoadRoot)
}

/// Whether `INVLPG` of its pages does it: that reaches global translations, but others, and upper-level entries, only under the
/// current PCID.
fn reached_by_pages(features: TlbFeatures, scope: Scope, request: Request) -> bool {
    match scope {
        Scope::Own => true,
        Scope::Shared if features.contexts => {
            request.global && features.shared_is_global && !request.tables
        }
        Scope::Shared => true,
    }
}

/// The least that makes the CPU forget all translations of `scope`; global ones only if asked to.
fn whole(features: TlbFeatures, scope: Scope, global: bool) -> LocalFlush {
    let global = global && features.global_pages;
    match scope {
        Scope::Own => LocalFlush::LoadRoot,
        Scope::Shared if global && features.invpcid => LocalFlush::Everything,
        Scope::Shared if global => LocalFlush::ToggleGlobal,
        Scope::Shared if features.contexts && features.invpcid => LocalFlush::EveryContext,
        Scope::Shared if features.contexts => LocalFlush::ToggleGlobal,
        Scope::Shared => LocalFlush::LoadRoot,
    }
}
