//! Where addresses were given back.

use kspace::ranges::Request;

use crate::{VMALLOC, pages, with_ranges};

#[test]
fn what_was_given_back_lies_inside_what_is_told_once() {
    with_ranges(pages(VMALLOC, 1000), |_, ranges| {
        assert_eq!(ranges.take_given_back(), None);
        let made: Vec<_> = (0..10)
            .map(|_| ranges.allocate(&Request::pages(10)).expect("room"))
            .collect();
        assert_eq!(ranges.take_given_back(), None, "nothing was given back");
        for number in [6, 2, 4] {
            ranges.free(made[number]).expect("it is live");
        }
        // From the lowest to the highest.
        assert_eq!(
            ranges.take_given_back(),
            Some(pages(VMALLOC + 20, 50)),
            "{made:?}"
        );
        assert_eq!(ranges.take_given_back(), None, "told already");
        // A part counts, too; what was only held does not, nor what was refused.
        let part = pages(VMALLOC + 99, 1);
        ranges.shrink(part).expect("the last page of the last one");
        ranges.allocate_at(part).expect("it is free");
        assert_eq!(ranges.take_given_back(), Some(part));
        ranges.let_go(part).expect("it was held");
        ranges.free(part).expect_err("it is free");
        assert_eq!(ranges.take_given_back(), None);
    });
}
