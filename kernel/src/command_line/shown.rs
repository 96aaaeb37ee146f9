//! `show=`: the texts about memory that the kernel prints before it ends, named as the files under `/proc` that Linux shows them in.

use core::fmt;

/// A text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Text {
    /// What each zone has, keeps back and serves from.
    Zoneinfo,
    /// How many free blocks of each order every zone has.
    Buddyinfo,
    /// What each range of physical addresses is.
    Iomem,
    /// How much memory there is, and what it is used for.
    Meminfo,
    /// Which memory type each range is mapped with (Linux: under /sys/kernel/debug/x86).
    Memtype,
    /// Which areas there are.
    Vmallocinfo,
}

impl Text {
    /// All of them, in the order in which they are printed.
    pub const ALL: [Self; 6] = [
        Self::Zoneinfo,
        Self::Buddyinfo,
        Self::Iomem,
        Self::Meminfo,
        Self::Memtype,
        Self::Vmallocinfo,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Zoneinfo => "zoneinfo",
            Self::Buddyinfo => "buddyinfo",
            Self::Iomem => "iomem",
            Self::Meminfo => "meminfo",
            Self::Memtype => "memtype",
            Self::Vmallocinfo => "vmallocinfo",
        }
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A set of texts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shown([bool; Text::ALL.len()]);

impl Shown {
    /// The texts named in `list`, with commas between them; otherwise the first name that is none.
    ///
    /// # Errors
    ///
    /// That name.
    pub fn parse(list: &str) -> Result<Self, &str> {
        let mut shown = Self::default();
        for name in list.split(',') {
            let place = Text::ALL.iter().position(|text| text.name() == name);
            shown.0[place.ok_or(name)?] = true;
        }
        Ok(shown)
    }

    /// The texts, in the order of [`Text::ALL`].
    pub fn texts(self) -> impl Iterator<Item = Text> {
        Text::ALL
            .into_iter()
            .filter(move |text| self.0[*text as usize])
    }
}
