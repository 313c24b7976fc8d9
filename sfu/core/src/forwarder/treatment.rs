//! How a packet goes out, in the 16 bits that a pacer's queue and a sequence map keep of it: enough to write the
//! packet later, and once more if it is lost.

use crate::{layers::Announcement, rewriter::Epoch};

const MARKER: u16 = 1 << 8;
const EMPTY: u16 = 1 << 9;
const ANNOUNCES: u16 = 1 << 10;
const EXPLICIT: u16 = 1 << 11;
const HIGHEST_AT: u32 = 12;
const HIGHEST: u16 = 0x07;
/// Where no layers are announced: audio has none.
const EARLIER_AT: u32 = HIGHEST_AT;
const EARLIER: u16 = 0x03;

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
    /// How many earlier payloads it goes out with; none where layers are announced.
    pub(crate) earlier_payloads: u8,
}

impl Treatment {
    pub(crate) fn to_tag(self) -> u16 {
        let flag = |set: bool, bit: u16| if set { bit } else { 0 };
        let earlier = (u16::from(self.earlier_payloads) & EARLIER) << EARLIER_AT;
        let announce = self.announce.map_or(earlier, |announce| {
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
        let earlier_payloads = match announce {
            Some(_) => 0,
            None => (tag >> EARLIER_AT & EARLIER) as u8,
        };
        Self {
            epoch: Epoch(epoch),
            marker: tag & MARKER != 0,
            empty: tag & EMPTY != 0,
            announce,
            earlier_payloads,
        }
    }

    /// The same without earlier payloads.
    pub(crate) fn alone(self) -> Self {
        Self { earlier_payloads: 0, ..self }
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
                for earlier_payloads in 0..if announce.is_none() { 4 } else { 1 } {
                    let epoch = Epoch(epoch);
                    let treatment = Treatment { epoch, marker, empty, announce, earlier_payloads };
                    assert_eq!(Treatment::from_tag(treatment.to_tag()), treatment);
                }
            }
        }
    }
}
