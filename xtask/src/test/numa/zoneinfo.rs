//! Two texts of `/proc/zoneinfo`, one of Linux and one of ours, of the same machine.

use std::collections::BTreeMap;

/// What the firmware's tables decide alone.
const EQUAL: [&str; 5] = ["boost", "spanned", "present", "cma", "start_pfn:"];

/// One zone.
#[derive(Debug)]
struct Paragraph<'a> {
    /// `Node 0, zone    DMA32`.
    heading: &'a str,
    figures: BTreeMap<&'a str, u64>,
    protection: Vec<u64>,
    cpus: usize,
}

impl Paragraph<'_> {
    fn figure(&self, name: &str) -> u64 {
        self.figures.get(name).copied().unwrap_or(0)
    }

    fn node(&self) -> &str {
        self.heading.split(',').next().unwrap_or_default()
    }

    /// `DMA32`.
    fn kind(&self) -> &str {
        self.heading.split(' ').next_back().unwrap_or_default()
    }
}

fn paragraphs<'a>(lines: impl Iterator<Item = &'a str>) -> Vec<Paragraph<'a>> {
    let mut all: Vec<Paragraph<'a>> = Vec::new();
    for line in lines {
        if line.starts_with("Node ") {
            all.push(Paragraph {
                heading: line,
                figures: BTreeMap::new(),
                protection: Vec::new(),
                cpus: 0,
            });
            continue;
        }
        let Some(zone) = all.last_mut() else { continue };
        let line = line.trim();
        if let Some(list) = line.strip_prefix("protection: (") {
            let numbers = list.trim_end_matches(')').split(", ");
            zone.protection = numbers.filter_map(|number| number.parse().ok()).collect();
        } else if line.starts_with("cpu: ") {
            zone.cpus += 1;
        } else if let Some((name, value)) = line
            .trim_start_matches("pages ")
            .rsplit_once(' ')
            .and_then(|(name, value)| Some((name.trim(), value.parse().ok()?)))
        {
            // Of a CPU's list, whose `high` is no mark, only the number of lists counts.
            zone.figures.entry(name).or_insert(value);
        }
    }
    all
}

/// How many nodes a text lists.
pub(super) fn nodes<'a>(lines: impl Iterator<Item = &'a str>) -> usize {
    let zones = paragraphs(lines);
    let mut nodes: Vec<&str> = zones.iter().map(Paragraph::node).collect();
    nodes.dedup();
    nodes.len()
}

/// Compares zone by zone, and our marks with Linux's formulas for what our zones manage. Returns how many zones have memory.
pub(super) fn compare<'a>(
    theirs: impl Iterator<Item = &'a str>,
    ours: impl Iterator<Item = &'a str>,
) -> Result<usize, String> {
    let (theirs, ours) = (paragraphs(theirs), paragraphs(ours));
    let headings =
        |zones: &[Paragraph<'a>]| -> Vec<&str> { zones.iter().map(|zone| zone.heading).collect() };
    super::same("zoneinfo", &headings(&theirs), &headings(&ours))?;
    for (their, our) in theirs.iter().zip(&ours) {
        for name in EQUAL {
            equal(our, name, their.figure(name), our.figure(name))?;
        }
        equal(our, "lists of CPUs", their.cpus as u64, our.cpus as u64)?;
    }
    let sum = |name: &str| -> u64 { ours.iter().map(|zone| zone.figure(name)).sum() };
    let low = sum("managed");
    if low == 0 || low > sum("present") {
        return Err(format!("{low} pages managed of {}", sum("present")));
    }
    kept(&ours, chosen(low))?;
    let with_memory = ours.iter().filter(|zone| zone.figure("present") > 0);
    Ok(with_memory.count())
}

/// Holds a text's marks against `min_free_kbytes=`; returns how many zones there are.
pub(super) fn reserves<'a>(
    lines: impl Iterator<Item = &'a str>,
    min_free_kbytes: u64,
) -> Result<usize, String> {
    let zones = paragraphs(lines);
    kept(&zones, min_free_kbytes)?;
    Ok(zones.len())
}

/// What Linux chooses for so many pages of low memory (`calculate_min_free_kbytes`, mm/page_alloc.c).
fn chosen(low_pages: u64) -> u64 {
    (low_pages * 4 * 16).isqrt().clamp(128, 262_144)
}

fn kept(zones: &[Paragraph<'_>], min_free_kbytes: u64) -> Result<(), String> {
    let low_pages = zones.iter().map(|zone| zone.figure("managed")).sum();
    zones.iter().try_for_each(|zone| {
        marks(zone, low_pages, min_free_kbytes)?;
        protection(zone, zones)
    })
}

fn equal(zone: &Paragraph<'_>, name: &str, expected: u64, is: u64) -> Result<(), String> {
    if expected == is {
        return Ok(());
    }
    Err(format!(
        "{}: {name} is {is}, must be {expected}",
        zone.heading
    ))
}

/// Linux's `__setup_per_zone_wmarks` (mm/page_alloc.c) with all settings as they are, for machines without high memory.
fn marks(zone: &Paragraph<'_>, low_pages: u64, min_free_kbytes: u64) -> Result<(), String> {
    let managed = zone.figure("managed");
    let share = min_free_kbytes / 4 * managed / low_pages.max(1);
    let min = if zone.kind() == "Movable" {
        (managed / 1024).clamp(32, 128)
    } else {
        share
    };
    let gap = (share / 4).max(managed * 10 / 10_000);
    let expected = [("min", 0), ("low", 1), ("high", 2), ("promo", 3)];
    expected
        .into_iter()
        .try_for_each(|(name, gaps)| equal(zone, name, min + gaps * gap, zone.figure(name)))
}

/// Linux's `setup_per_zone_lowmem_reserve` (mm/page_alloc.c).
fn protection(zone: &Paragraph<'_>, all: &[Paragraph<'_>]) -> Result<(), String> {
    let node: Vec<&Paragraph<'_>> = all.iter().filter(|one| one.node() == zone.node()).collect();
    let place = node.iter().position(|one| one.heading == zone.heading);
    let ratio = match zone.kind() {
        "DMA" | "DMA32" => 256,
        "Normal" => 32,
        _ => 0,
    };
    let keeps = ratio > 0 && zone.figure("managed") > 0;
    let mut above = 0;
    for (index, upper) in node.iter().enumerate() {
        let higher = place.is_some_and(|place| index > place);
        above += if higher { upper.figure("managed") } else { 0 };
        let expected = if keeps && higher { above / ratio } else { 0 };
        let is = zone.protection.get(index).copied();
        equal(zone, "protection", expected, is.unwrap_or(u64::MAX))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test::numa::recorded::MACHINES;

    /// The formulas are Linux's own: what it recorded of itself follows from them and from the `min_free_kbytes` that it had.
    #[test]
    fn linux_keeps_back_what_the_formulas_say() {
        for machine in MACHINES {
            let kbytes = machine.part("min_free_kbytes").trim().parse().unwrap();
            reserves(machine.part("zoneinfo").lines(), kbytes).unwrap();
            let more = reserves(machine.part("zoneinfo").lines(), kbytes + 400);
            assert!(more.is_err());
        }
    }

    #[test]
    fn each_difference_is_named() {
        let text = MACHINES[1].part("zoneinfo");
        let fault = |from: &str, to: &str| {
            let changed = text.replacen(from, to, 1);
            compare(text.lines(), changed.lines()).unwrap_err()
        };
        assert_eq!(
            fault("spanned  4095", "spanned  4096"),
            "Node 0, zone      DMA: spanned is 4096, must be 4095"
        );
        assert_eq!(
            fault("start_pfn:           4096", "start_pfn:           0"),
            "Node 0, zone    DMA32: start_pfn: is 0, must be 4096"
        );
        assert!(
            fault("Node 1, zone   Normal", "Node 1, zone  HighMem").contains("zoneinfo, line 8")
        );
        assert!(fault("    cpu: 1\n", "").ends_with("lists of CPUs is 1, must be 2"));
    }
}
