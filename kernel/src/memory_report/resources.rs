//! What each range of physical addresses is: the firmware's map, and in it the kernel's image.

use kspace_frames::MemoryMap;
use kspace_frames::zone::text::Resource;
use kspace_layout::{KernelImage, PhysRange, SectionKind};

/// The image's parts under Linux's names (`code_resource` and its neighbours, arch/x86/kernel/setup.c).
const PARTS: [(SectionKind, &str); 4] = [
    (SectionKind::Text, "Kernel code"),
    (SectionKind::Rodata, "Kernel rodata"),
    (SectionKind::Data, "Kernel data"),
    (SectionKind::Bss, "Kernel bss"),
];

/// The resources of a machine with this map, on which this image runs.
pub fn resources<'a>(
    map: &'a MemoryMap,
    image: Option<&'a KernelImage>,
) -> impl Iterator<Item = Resource<'a>> + Clone {
    let parts = image.into_iter().flat_map(|image| {
        PARTS
            .into_iter()
            .filter_map(|(kind, name)| Some(Resource::new(part(image, kind)?, name)))
    });
    map.entries().map(Resource::from).chain(parts)
}

fn part(image: &KernelImage, kind: SectionKind) -> Option<PhysRange> {
    let section = image.section(kind)?;
    let start = image.virt_to_phys(section.start())?;
    PhysRange::try_new(start, section.size()).ok()
}
