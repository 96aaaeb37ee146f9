//! What Linux 6.12 said on eight machines, as recorded in the data of kspace-frames' tests.

/// One machine.
#[derive(Clone, Copy, Debug)]
pub(super) struct Recorded {
    /// What is special about it.
    pub(super) name: &'static str,
    text: &'static str,
}

macro_rules! machine {
    ($name:literal, $file:literal) => {
        Recorded {
            name: $name,
            text: include_str!(concat!(
                "../../../../crates/frames/tests/data/linux-6.12-numa-",
                $file,
                ".txt"
            )),
        }
    };
}

/// The machines.
pub(super) const MACHINES: [Recorded; 8] = [
    machine!("no tables", "one"),
    machine!("two nodes of unequal size", "two"),
    machine!("turned off", "off"),
    machine!("a node without memory", "memoryless"),
    machine!("room for more memory", "hotplug"),
    machine!("eight CPUs on four nodes", "four"),
    machine!("memory above 4 GiB", "five"),
    machine!("a node with three zones", "fivetwo"),
];

impl Recorded {
    /// The part below a heading: `machine`, QEMU's options; `words`, the kernel's; `log`, `zoneinfo`, `iomem`.
    pub(super) fn part(&self, heading: &str) -> &'static str {
        let (_, from) = self
            .text
            .split_once(&format!("## {heading}\n"))
            .unwrap_or_default();
        from.split("\n## ").next().unwrap_or_default()
    }

    /// Each CPU with its node, from lines as `node1 cpus 2-3 distance 20 10 30 40`.
    pub(super) fn cpus(&self) -> Vec<(u32, u32)> {
        let mut all = Vec::new();
        for line in self.part("nodes").lines() {
            let mut words = line.split(' ');
            let node = words.next().and_then(|name| name.strip_prefix("node"));
            let (Some(Ok(node)), Some(list)) = (node.map(str::parse), words.nth(1)) else {
                continue;
            };
            let (first, last) = list.split_once('-').unwrap_or((list, list));
            if let (Ok(first), Ok(last)) = (first.parse::<u32>(), last.parse()) {
                all.extend((first..=last).map(|cpu| (cpu, node)));
            }
        }
        all
    }

    /// The node that Linux asks first for memory near to `node`: `0` of `Fallback order for Node 1: 0 `.
    pub(super) fn first_asked(&self, node: u32) -> &'static str {
        let start = format!("Fallback order for Node {node}: ");
        let mut lines = self.part("log").lines();
        let order = lines.find_map(|line| line.strip_prefix(start.as_str()));
        order
            .and_then(|order| order.split(' ').next())
            .unwrap_or_default()
    }
}

/// How the lines of a boot log begin that say something of nodes and zones.
const OF_NODES: [&str; 17] = [
    "BIOS-e820: ",
    "ACPI: SRAT: ",
    "NUMA",
    "No NUMA",
    "Faking a node",
    "Zone ranges:",
    "  DMA ",
    "  DMA32 ",
    "  Normal ",
    "  Device ",
    "Movable zone start",
    "Early memory node ranges",
    "  node  ",
    "Initmem setup node",
    "On node ",
    "Fallback order",
    "Built ",
];

/// The lines of a boot log that say something of nodes and zones. What Linux says of its own features behind `zonelists` is its own.
pub(super) fn of_nodes<'a>(lines: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let wanted = lines.filter(|line| OF_NODES.iter().any(|start| line.starts_with(start)));
    wanted
        .map(|line| {
            line.split_once(" zonelists")
                .map_or(line, |(start, _)| start)
        })
        .collect()
}

/// The ranges in `/proc/iomem` that are the firmware's word on memory, however deep Linux has them inside its devices.
pub(super) fn ranges<'a>(lines: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let kinds = [" : System RAM", " : Reserved", " : ACPI Tables"];
    lines
        .map(str::trim)
        .filter(|line| kinds.iter().any(|kind| line.ends_with(kind)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_machine_is_recorded_whole() {
        for machine in MACHINES {
            assert!(
                machine.part("machine").starts_with("-m "),
                "{}",
                machine.name
            );
            assert!(
                of_nodes(machine.part("log").lines()).len() > 15,
                "{}",
                machine.name
            );
            assert!(
                ranges(machine.part("iomem").lines()).len() > 7,
                "{}",
                machine.name
            );
        }
        assert_eq!(MACHINES[0].part("no such heading"), "");
        assert_eq!(MACHINES[3].cpus(), [(0, 0), (1, 1)]);
        assert_eq!(MACHINES[3].first_asked(1), "0");
        assert_eq!(MACHINES[5].cpus()[5], (5, 2));
    }

    #[test]
    fn only_what_is_said_of_nodes_counts() {
        let log = [
            "Command line: nokaslr",
            "  DMA      [mem 0x0000000000001000-0x0000000000ffffff]",
            "  node_unreclaimable:  0",
            "Built 2 zonelists, mobility grouping on.  Total pages: 196477",
        ];
        assert_eq!(of_nodes(log.into_iter()), [log[1], "Built 2"]);
    }
}
