//! The protocol against a device made of memory, honest or not; QEMU's own device answers in the boot tests.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use super::*;

/// How a device answers a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// As QEMU: the whole file at once, or an error.
    Honest,
    /// With an error.
    Refusal,
    /// Never.
    Silence,
}

/// A device whose physical memory is this process's own.
#[derive(Clone, Debug)]
pub(crate) struct FakeDevice {
    pub(crate) items: Rc<RefCell<BTreeMap<u16, Vec<u8>>>>,
    answer: Answer,
    selected: (u16, usize),
}

impl FakeDevice {
    /// A device with these files, numbered from 0x20 on.
    pub(crate) fn new(files: &[(&[u8], Vec<u8>)]) -> Self {
        let mut items = BTreeMap::from([
            (SIGNATURE, b"QEMU".to_vec()),
            (FEATURES, 3_u32.to_le_bytes().to_vec()),
        ]);
        let mut directory = (files.len() as u32).to_be_bytes().to_vec();
        for (item, (name, content)) in (0x20_u16..).zip(files) {
            directory.extend((content.len() as u32).to_be_bytes());
            directory.extend(item.to_be_bytes());
            directory.extend([0; 2]);
            directory.extend(*name);
            directory.resize(directory.len().next_multiple_of(ENTRY) + 4, 0);
            directory.truncate(4 + ENTRY * usize::from(item - 0x1f));
            items.insert(item, content.clone());
        }
        items.insert(DIRECTORY, directory);
        Self {
            items: Rc::new(RefCell::new(items)),
            answer: Answer::Honest,
            selected: (0, 0),
        }
    }

    /// The same with another content of one item.
    pub(crate) fn with(self, item: u16, content: &[u8]) -> Self {
        self.items.borrow_mut().insert(item, content.to_vec());
        self
    }

    pub(crate) fn answering(mut self, answer: Answer) -> Self {
        self.answer = answer;
        self
    }

    pub(crate) fn without_dma(self) -> Self {
        self.with(FEATURES, &[1, 0, 0, 0])
    }

    pub(crate) fn without_signature(self) -> Self {
        self.with(SIGNATURE, &[0xff; 4])
    }

    pub(crate) fn with_endless_directory(self) -> Self {
        self.with(DIRECTORY, &[0xff; 4])
    }

    fn obey(&self, request: &DmaRequest) -> u32 {
        let word = |word: &AtomicU32| u32::from_be(word.load(Ordering::Relaxed));
        let (control, length) = (request.control(), word(&request.length) as usize);
        let address =
            (u64::from(word(&request.address_high)) << 32) | u64::from(word(&request.address_low));
        let mut items = self.items.borrow_mut();
        match items.get_mut(&((control >> 16) as u16)) {
            Some(content) if content.len() == length && control & 0xffff == 0x18 => {
                // SAFETY: the tests give addresses of their own statics as physical ones.
                let data = unsafe { core::slice::from_raw_parts(address as *const u8, length) };
                content.copy_from_slice(data);
                0
            }
            _ => DMA_ERROR,
        }
    }
}

impl Registers for FakeDevice {
    fn select(&mut self, item: u16) {
        self.selected = (item, 0);
    }

    fn read(&mut self, buffer: &mut [u8]) {
        let (item, offset) = &mut self.selected;
        let items = self.items.borrow();
        let content = items.get(item).map_or(&[][..], Vec::as_slice);
        for byte in buffer {
            *byte = content.get(*offset).copied().unwrap_or(0);
            *offset += 1;
        }
    }

    fn start_dma(&mut self, request: PhysAddr) {
        // SAFETY: the tests give addresses of their own statics as physical ones.
        let request = unsafe { &*(request.as_u64() as *const DmaRequest) };
        let control = match self.answer {
            Answer::Honest => self.obey(request),
            Answer::Refusal => DMA_ERROR,
            Answer::Silence => return,
        };
        request.control.store(control.to_be(), Ordering::Relaxed);
    }
}

/// What a test's own memory is "physically".
pub(crate) fn phys<T>(of: &T) -> PhysAddr {
    PhysAddr::new(core::ptr::from_ref(of) as u64)
}

/// Four bytes under a name, among others.
fn device() -> FakeDevice {
    FakeDevice::new(&[
        (b"etc/e820", vec![1; 20]),
        (b"\xff\xfe not text", vec![2]),
        (b"etc/notes", vec![3; 4]),
        (&[b'x'; 56], vec![4; 5]),
    ])
}

fn write(device: FakeDevice, name: &str) -> Result<(), FwCfgError> {
    static DATA: [u8; 4] = *b"note";
    let request: &'static DmaRequest = Box::leak(Box::new(DmaRequest::new()));
    let mut device = FwCfg::find(device).unwrap();
    let file = device.file(name).unwrap().unwrap();
    // SAFETY: this is the request's address.
    unsafe { device.write(file, phys(&DATA), 4, request, phys(request)) }
}

#[test]
fn a_device_is_known_by_its_signature() {
    assert!(FwCfg::find(device()).is_some());
    assert!(FwCfg::find(device().without_signature()).is_none());
    assert!(FwCfg::find(FakeDevice::new(&[]).with(SIGNATURE, b"")).is_none());
}

#[test]
fn files_are_found_by_their_whole_name() {
    let mut device = FwCfg::find(device()).unwrap();
    let found = device.file("etc/notes").unwrap().unwrap();
    assert_eq!((found.item, found.size), (0x22, 4));
    assert_eq!(device.read(found), [3, 3, 3, 3, 0, 0]);
    assert_eq!(device.file("etc/note"), Ok(None));
    assert_eq!(device.file("etc/notes2"), Ok(None));
    // A name that fills its field has no end mark.
    let longest = "x".repeat(56);
    assert_eq!(device.file(&longest).unwrap().unwrap().size, 5);
}

#[test]
fn an_endless_directory_is_not_followed() {
    let mut device = FwCfg::find(device().with_endless_directory()).unwrap();
    assert_eq!(
        device.file("etc/notes").unwrap_err().to_string(),
        "fw_cfg: the directory claims 4294967295 files, and items are numbered for 16352"
    );
}

#[test]
fn a_directory_that_ends_early_holds_what_it_holds() {
    let cut = FakeDevice::new(&[]).with(DIRECTORY, &[0, 0, 0x3f, 0xe0, 0, 0]);
    assert_eq!(FwCfg::find(cut).unwrap().file("etc/notes"), Ok(None));
}

#[test]
fn what_is_written_arrives() {
    let device = device();
    assert_eq!(write(device.clone(), "etc/notes"), Ok(()));
    assert_eq!(device.items.borrow()[&0x22], b"note");
}

#[test]
fn a_write_that_fails_says_how() {
    for (device, name, message) in [
        (
            device().without_dma(),
            "etc/notes",
            "fw_cfg: the device cannot be written to: features 0x1 lack DMA (0x2)",
        ),
        (
            device().answering(Answer::Refusal),
            "etc/notes",
            "fw_cfg: the device refused to have item 0x22 written",
        ),
        (
            device().answering(Answer::Honest),
            "etc/e820",
            "fw_cfg: the device refused to have item 0x20 written",
        ),
        (
            device().answering(Answer::Silence),
            "etc/notes",
            "fw_cfg: the device did not answer a write of item 0x22 within 1000000 looks",
        ),
    ] {
        assert_eq!(write(device, name).unwrap_err().to_string(), message);
    }
}
