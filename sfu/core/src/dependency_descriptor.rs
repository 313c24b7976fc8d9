//! The dependency descriptor (AV1 RTP specification, appendix A): a header extension that tells of each frame
//! its layer and what it depends on. Most of it stands in a structure that comes with keyframes, to which the
//! descriptors that follow refer.

use crate::{layers::Layer, temporal::TemporalLayer};

/// Template ids have six bits and wrap around.
const TEMPLATES_MAX: u8 = 64;
const SPATIAL_LAYERS_MAX: usize = 4;
const TEMPORAL_LAYERS_MAX: u8 = 8;
/// Decode targets that a structure can have.
const TARGETS_MAX: usize = 32;
/// Decode target indication: who decodes the frame can decode the target from here on.
const SWITCH: u32 = 2;
/// Bits of the fields that every descriptor has.
const MANDATORY_BITS: usize = 24;
/// Bits of those and of the five flags that follow in longer ones.
const FLAGS_END_BITS: usize = 29;
/// Where among the flags it says that a mask of decode targets is present.
const MASK_FLAG_BIT: usize = 25;

/// What a stream's descriptors refer to. A malformed descriptor changes nothing.
#[derive(Debug, Default)]
pub(crate) struct DescriptorReader {
    structure: Option<Structure>,
    /// The active decode targets: those of the last mask.
    active: u32,
    /// The newest picture: its timestamp and the number of its first frame.
    picture: Option<(u32, u16)>,
}

/// The number of the frame; none of a descriptor that is cut off.
pub(crate) fn frame_number(descriptor: &[u8]) -> Option<u16> {
    let [_, high, low, ..] = *descriptor else { return None };
    Some(u16::from_be_bytes([high, low]))
}

/// What a descriptor says about its packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Described {
    pub(crate) layer: Layer,
    pub(crate) temporal: TemporalLayer,
    /// A structure begins with the packet: it is a keyframe's first.
    pub(crate) structure: bool,
    /// How many spatial layers there are from here on, where it is said.
    pub(crate) layers: Option<u8>,
    pub(crate) targets: DecodeTargets,
}

/// The descriptor's mask of active decode targets: sets of frames that a receiver may want to decode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DecodeTargets {
    count: u8,
    /// The targets up to each spatial layer.
    within: [u32; SPATIAL_LAYERS_MAX],
    /// The publisher's mask: the last there was.
    active: u32,
    /// Where in the descriptor the mask stands, or would, in bits.
    at: usize,
    present: bool,
}

#[derive(Clone, Debug)]
struct Structure {
    template_id_offset: u8,
    templates: Vec<Template>,
    targets: u8,
    /// The highest spatial and temporal layer of each target.
    target_layers: [(u8, u8); TARGETS_MAX],
    within: [u32; SPATIAL_LAYERS_MAX],
}

#[derive(Clone, Copy, Debug, Default)]
struct Template {
    spatial: u8,
    temporal: u8,
    /// See [`TemporalLayer::opens`].
    opens: u8,
    /// How many frames back the farthest one is on which a frame depends; 0 without dependencies.
    reach: u16,
}

impl DescriptorReader {
    /// Reads a packet's descriptor. None when it is malformed, or refers to a structure that did not come.
    pub(crate) fn read(&mut self, descriptor: &[u8], timestamp: u32) -> Option<Described> {
        let mut bits = Bits::new(descriptor);
        let first = bits.flag()?;
        let frame_end = bits.flag()?;
        let template_id = u8::try_from(bits.read(6)?).ok()?;
        let frame_number = u16::try_from(bits.read(16)?).ok()?;
        let is_extended = descriptor.len() * 8 > MANDATORY_BITS;
        let mut flags = [false; 5];
        if is_extended {
            for flag in &mut flags {
                *flag = bits.flag()?;
            }
        }
        let [has_structure, has_mask, custom_indications, custom_references, _custom_chains] = flags;
        let attached = if has_structure { Some(Structure::read(&mut bits)?) } else { None };
        let structure = attached.as_ref().or(self.structure.as_ref())?;
        let targets = u32::from(structure.targets);
        let at = bits.position.max(FLAGS_END_BITS);
        let active = match has_mask {
            true => Some(bits.read(targets)?),
            false => has_structure.then_some(all(structure.targets)),
        };
        let index = (template_id + TEMPLATES_MAX - structure.template_id_offset) % TEMPLATES_MAX;
        let template = *structure.templates.get(usize::from(index))?;
        let mut opens = template.opens;
        if custom_indications {
            opens = template.temporal;
            for target in structure.target_layers.iter().take(usize::from(structure.targets)) {
                opens = opens.max(template.opened(bits.read(2)?, *target));
            }
        }
        let reach = if custom_references { read_frame_references(&mut bits)? } else { template.reach };
        let layers = active.and_then(|active| structure.layers_in(active));
        let active = active.unwrap_or(self.active);
        let targets = DecodeTargets {
            count: structure.targets,
            within: structure.within,
            active,
            at,
            present: has_mask,
        };
        self.active = active;
        if attached.is_some() {
            self.structure = attached;
        }
        let refresh = reach <= self.frames_before(timestamp, frame_number);
        let layer = Layer { spatial: template.spatial, refresh, frame_end };
        let temporal = TemporalLayer { id: template.temporal, from_base: false, opens };
        Some(Described { layer, temporal, structure: first && has_structure, layers, targets })
    }

    /// How many frames of the same picture are known to come before this one.
    fn frames_before(&mut self, timestamp: u32, number: u16) -> u16 {
        let is_earlier = |distance: u32| distance >= 1 << 31;
        match self.picture {
            Some((newest, first)) if newest == timestamp && number.wrapping_sub(first) < 1 << 15 => {
                number.wrapping_sub(first)
            }
            Some((newest, _)) if newest != timestamp && is_earlier(timestamp.wrapping_sub(newest)) => 0,
            _ => {
                self.picture = Some((timestamp, number));
                0
            }
        }
    }
}

impl Structure {
    fn read(bits: &mut Bits<'_>) -> Option<Self> {
        let template_id_offset = u8::try_from(bits.read(6)?).ok()?;
        let targets = u8::try_from(bits.read(5)?).ok()? + 1;
        let mut templates = Self::read_layers(bits)?;
        let mut target_layers = [(0_u8, 0_u8); TARGETS_MAX];
        let mut switches = [0_u32; TEMPLATES_MAX as usize];
        for (template, switches) in templates.iter().zip(&mut switches) {
            for (target, (spatial, temporal)) in
                target_layers.iter_mut().take(usize::from(targets)).enumerate()
            {
                let indication = bits.read(2)?;
                if indication != 0 {
                    *spatial = (*spatial).max(template.spatial);
                    *temporal = (*temporal).max(template.temporal);
                }
                if indication == SWITCH {
                    *switches |= 1 << target;
                }
            }
        }
        for (template, switches) in templates.iter_mut().zip(switches) {
            let opened = target_layers.iter().enumerate().filter(|(target, _)| switches >> target & 1 != 0);
            let opened = opened.map(|(_, layers)| template.opened(SWITCH, *layers)).max();
            template.opens = opened.unwrap_or(0).max(template.temporal);
        }
        for template in &mut templates {
            while bits.flag()? {
                template.reach = template.reach.max(u16::try_from(bits.read(4)?).ok()? + 1);
            }
        }
        let chains = bits.non_symmetric(u32::from(targets) + 1)?;
        if chains > 0 {
            for _ in 0..targets {
                bits.non_symmetric(chains)?;
            }
            bits.skip(4 * chains * u32::try_from(templates.len()).ok()?)?;
        }
        let has_resolutions = bits.flag()?;
        if has_resolutions {
            let layers = u32::from(templates.last()?.spatial) + 1;
            bits.skip(32 * layers)?;
        }
        let mut within = [0_u32; SPATIAL_LAYERS_MAX];
        for (highest, mask) in (0_u8..).zip(&mut within) {
            for (target, (layer, _)) in target_layers.iter().take(usize::from(targets)).enumerate() {
                if *layer <= highest {
                    *mask |= 1 << target;
                }
            }
        }
        Some(Self { template_id_offset, templates, targets, target_layers, within })
    }

    /// The templates, of which each says how the next one's layer follows from its own.
    fn read_layers(bits: &mut Bits<'_>) -> Option<Vec<Template>> {
        let mut templates = Vec::new();
        let (mut spatial, mut temporal) = (0_u8, 0_u8);
        while templates.len() < usize::from(TEMPLATES_MAX) {
            templates.push(Template { spatial, temporal, ..Template::default() });
            match bits.read(2)? {
                0 => {}
                1 => temporal += 1,
                2 => (spatial, temporal) = (spatial + 1, 0),
                _ => return Some(templates),
            }
            if usize::from(spatial) >= SPATIAL_LAYERS_MAX || temporal >= TEMPORAL_LAYERS_MAX {
                return None;
            }
        }
        None
    }

    /// How many spatial layers the targets in a mask have; none for an empty mask.
    fn layers_in(&self, mask: u32) -> Option<u8> {
        let count = self.within.iter().position(|within| mask & !within == 0)? + 1;
        u8::try_from(count).ok().filter(|_| mask != 0)
    }
}

impl Template {
    /// Up to which temporal layer a frame opens its spatial layer by its indication for a target of these layers.
    fn opened(self, indication: u32, (spatial, temporal): (u8, u8)) -> u8 {
        if indication == SWITCH && spatial == self.spatial { temporal } else { 0 }
    }
}

/// References in a frame's own descriptor: how far back the farthest is.
fn read_frame_references(bits: &mut Bits<'_>) -> Option<u16> {
    let mut reach = 0;
    loop {
        let size = bits.read(2)?;
        if size == 0 {
            return Some(reach);
        }
        reach = reach.max(u16::try_from(bits.read(4 * size)?).ok()? + 1);
    }
}

impl DecodeTargets {
    /// The descriptor with a mask of the targets up to a spatial layer alone. None if those above it are not
    /// active anyway, unless the mask is to be `explicit` all the same.
    pub(crate) fn limited(&self, descriptor: &[u8], highest: u8, explicit: bool) -> Option<Vec<u8>> {
        let within = self.within.get(usize::from(highest)).copied().unwrap_or(u32::MAX);
        let mask = self.active & within;
        if (mask == self.active && !explicit) || mask == 0 {
            return None;
        }
        let mut source = Bits::new(descriptor);
        let mut written = BitWriter { bytes: Vec::with_capacity(descriptor.len() + 5), free: 0 };
        for position in 0..self.at {
            // Descriptors of three bytes have no flags: none is set.
            let bit = source.flag().unwrap_or(false) || position == MASK_FLAG_BIT;
            written.push(bit);
        }
        for target in (0..self.count).rev() {
            written.push(mask >> target & 1 != 0);
        }
        if self.present {
            source.skip(u32::from(self.count))?;
        }
        while let Some(bit) = source.flag() {
            written.push(bit);
        }
        Some(written.bytes)
    }
}

fn all(targets: u8) -> u32 {
    u32::MAX >> (32 - u32::from(targets.clamp(1, 32)))
}

/// Reads bits, the highest of a byte first.
struct Bits<'a> {
    bytes: &'a [u8],
    /// Bits read so far.
    position: usize,
}

impl<'a> Bits<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, position: 0 }
    }

    fn flag(&mut self) -> Option<bool> {
        let byte = *self.bytes.get(self.position / 8)?;
        let bit = byte >> (7 - self.position % 8) & 1;
        self.position += 1;
        Some(bit != 0)
    }

    /// A number of up to 32 bits.
    fn read(&mut self, count: u32) -> Option<u32> {
        let mut value = 0;
        for _ in 0..count {
            value = value << 1 | u32::from(self.flag()?);
        }
        Some(value)
    }

    fn skip(&mut self, count: u32) -> Option<()> {
        let end = self.position.checked_add(usize::try_from(count).ok()?)?;
        (end <= self.bytes.len() * 8).then(|| self.position = end)
    }

    /// One of `count` values in as few bits as that takes (AV1 specification, section 4.10.7).
    fn non_symmetric(&mut self, count: u32) -> Option<u32> {
        let width = u32::BITS - count.leading_zeros();
        let short = (1_u32 << width).checked_sub(count)?;
        let value = self.read(width.checked_sub(1)?)?;
        if value < short {
            return Some(value);
        }
        Some((value << 1 | u32::from(self.flag()?)) - short)
    }
}

struct BitWriter {
    bytes: Vec<u8>,
    /// Bits of the last byte that are not written yet.
    free: u32,
}

impl BitWriter {
    fn push(&mut self, bit: bool) {
        if self.free == 0 {
            self.bytes.push(0);
            self.free = 8;
        }
        self.free -= 1;
        if let Some(last) = self.bytes.last_mut() {
            *last |= u8::from(bit) << self.free;
        }
    }
}

#[cfg(test)]
mod tests;
