//! CPUs by number, and sets of them.

use core::fmt;

const WORD_BITS: usize = u64::BITS as usize;
const WORDS: usize = CpuMask::CAPACITY / WORD_BITS;

/// A CPU, by the kernel's own dense number (not the APIC's id): below [`CpuMask::CAPACITY`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CpuId(u16);

impl CpuId {
    /// The CPU with this number; `None` when there can be none.
    #[inline]
    #[must_use]
    pub const fn try_new(index: usize) -> Option<Self> {
        if index < CpuMask::CAPACITY {
            // Below 256, so nothing is cut off.
            Some(Self(index as u16))
        } else {
            None
        }
    }

    /// As [`try_new`](Self::try_new), where the number is known to be one.
    ///
    /// # Panics
    ///
    /// When `index` is [`CpuMask::CAPACITY`] or more.
    #[inline]
    #[must_use]
    pub const fn new(index: usize) -> Self {
        match Self::try_new(index) {
            Some(cpu) => cpu,
            None => panic!("no such CPU: masks have 256"),
        }
    }

    /// The number.
    #[inline]
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for CpuId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// A set of CPUs.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct CpuMask {
    words: [u64; WORDS],
}

impl CpuMask {
    /// How many CPUs a mask has room for: all that 8-bit APIC ids can name.
    pub const CAPACITY: usize = 256;
    /// No CPU.
    pub const EMPTY: Self = Self { words: [0; WORDS] };

    /// The set of one.
    #[inline]
    #[must_use]
    pub const fn one(cpu: CpuId) -> Self {
        let mut mask = Self::EMPTY;
        mask.words[cpu.index() / WORD_BITS] = 1 << (cpu.index() % WORD_BITS);
        mask
    }

    /// The set with these 64-CPU words, CPU 0 in bit 0 of the first.
    #[inline]
    #[must_use]
    pub const fn from_words(words: [u64; WORDS]) -> Self {
        Self { words }
    }

    /// The 64-CPU words, CPU 0 in bit 0 of the first.
    #[inline]
    #[must_use]
    pub const fn words(&self) -> [u64; WORDS] {
        self.words
    }

    /// Adds a CPU.
    #[inline]
    pub const fn insert(&mut self, cpu: CpuId) {
        self.words[cpu.index() / WORD_BITS] |= 1 << (cpu.index() % WORD_BITS);
    }

    /// Takes a CPU out.
    #[inline]
    pub const fn remove(&mut self, cpu: CpuId) {
        self.words[cpu.index() / WORD_BITS] &= !(1 << (cpu.index() % WORD_BITS));
    }

    /// Whether a CPU is in.
    #[inline]
    #[must_use]
    pub const fn contains(&self, cpu: CpuId) -> bool {
        self.words[cpu.index() / WORD_BITS] & 1 << (cpu.index() % WORD_BITS) != 0
    }

    /// Whether no CPU is in.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|&word| word == 0)
    }

    /// How many CPUs are in.
    #[inline]
    #[must_use]
    pub fn len(&self) -> usize {
        self.words
            .iter()
            .map(|word| word.count_ones() as usize)
            .sum()
    }

    /// The CPUs, in ascending order.
    #[inline]
    #[must_use]
    pub const fn iter(&self) -> CpuMaskIter {
        CpuMaskIter {
            words: self.words,
            word: 0,
        }
    }
}

impl FromIterator<CpuId> for CpuMask {
    fn from_iter<I: IntoIterator<Item = CpuId>>(cpus: I) -> Self {
        let mut mask = Self::EMPTY;
        for cpu in cpus {
            mask.insert(cpu);
        }
        mask
    }
}

impl IntoIterator for &CpuMask {
    type Item = CpuId;
    type IntoIter = CpuMaskIter;

    fn into_iter(self) -> CpuMaskIter {
        self.iter()
    }
}

/// As Linux lists CPUs: `0-3,7`; the empty set is `none`.
impl fmt::Display for CpuMask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut cpus = self.iter().map(CpuId::index).peekable();
        if cpus.peek().is_none() {
            return f.write_str("none");
        }
        let mut separator = "";
        while let Some(first) = cpus.next() {
            let mut last = first;
            while cpus.next_if_eq(&(last + 1)).is_some() {
                last += 1;
            }
            if first == last {
                write!(f, "{separator}{first}")?;
            } else {
                write!(f, "{separator}{first}-{last}")?;
            }
            separator = ",";
        }
        Ok(())
    }
}

impl fmt::Debug for CpuMask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CpuMask({self})")
    }
}

/// The CPUs of a mask, in ascending order.
#[derive(Clone, Debug)]
pub struct CpuMaskIter {
    words: [u64; WORDS],
    word: usize,
}

impl Iterator for CpuMaskIter {
    type Item = CpuId;

    #[inline]
    fn next(&mut self) -> Option<CpuId> {
        while let Some(bits) = self.words.get_mut(self.word) {
            if *bits != 0 {
                let bit = bits.trailing_zeros() as usize;
                *bits &= *bits - 1;
                return CpuId::try_new(self.word * WORD_BITS + bit);
            }
            self.word += 1;
        }
        None
    }
}
