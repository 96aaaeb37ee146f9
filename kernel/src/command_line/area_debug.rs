//! `vmalloc-debug=`: which debug modes areas have.

/// The modes that were asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AreaDebug {
    /// `poison`: fill freed areas with a pattern, and look at them when they are purged.
    pub poison: bool,
    /// `random`: place areas at random; `seed=` says how.
    pub random: bool,
    /// `flush`: flush at every free.
    pub flush: bool,
}

impl AreaDebug {
    /// The names of the modes.
    pub const NAMES: [&'static str; 3] = ["poison", "random", "flush"];

    /// The modes named in `list`, with commas between them.
    ///
    /// # Errors
    ///
    /// The first name that is none.
    pub fn parse(list: &str) -> Result<Self, &str> {
        let mut debug = Self::default();
        for name in list.split(',') {
            match name {
                "poison" => debug.poison = true,
                "random" => debug.random = true,
                "flush" => debug.flush = true,
                _ => return Err(name),
            }
        }
        Ok(debug)
    }
}
