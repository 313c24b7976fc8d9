//! How a packet goes out, in the 16 bits that a pacer's queue and a sequence map keep of it: enough to write the
//! packet later, and once more if it is lost.

use crate::{layers::Announcement, rewriter::Epoch};

const MARKER: u16 = 1 << 8;
const EMPTY: u16 = 1 << 9;
const ANNOUNCES: u16 = 1 << 10;
const EXPLICIT: u16 = 1 << 11;
const HIGHEST_AT: u32 = 12;
const HIGHEST: u16 = 0x07;

/// What a subscription does to a packet of its track.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Treatment {
    /// The source whose numbers it has.
    pub(crate) epoch: Epoch,
    pub(crate) marker: bool,
    /// Nothing of it is sent but its number.
    pub(crate) empty: bool,
    /// What its dependency descriptor says of the layers.
    pub(crate) announce: Option<Announcement>,
}

impl Treatment {
    pub(crate) fn to_tag(self) -> u16 {
        let flag = |set: bool, bit: u16| if set { bit } else { 0 };
        let announce = self.announce.map_or(0, |announce| {
            ANNOUNCES
                | flag(announce.explicit, EXPLICIT)
                | (u16::from(announce.highest) & HIGHEST) << HIGHEST_AT
        });
        u16::from(self.epoch.0) | flag(self.marker, MARKER) | flag(self.empty, EMPTY) | announce
    }

    pub(crate) fn from_tag(tag: u16) -> Self {
        let [_, epoch] = tag.to_be_bytes();
        let announce = (tag & ANNOUNCES != 0).then(|| {
            let [_, highest] = (tag >> HIGHEST_AT & HIGHEST).to_be_bytes();
            Announcement { highest, explicit: tag & EXPLICIT != 0 }
        });
        Self { epoch: Epoch(epoch), marker: tag & MARKER != 0, empty: tag & EMPTY != 0, announce }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_treatment_survives_its_tag() {
        let announcements = (0..8)
            .flat_map(|highest| [true, false].map(|explicit| Some(Announcement { highest, explicit })))
            .chain([None]);
        for announce in announcements {
            for (epoch, marker, empty) in [(0, true, false), (255, false, true), (7, true, true)] {
                let treatment = Treatment { epoch: Epoch(epoch), marker, empty, announce };
                assert_eq!(Treatment::from_tag(treatment.to_tag()), treatment);
            }
        }
    }
}
