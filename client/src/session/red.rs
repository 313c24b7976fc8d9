//! Reads audio with redundancy (RFC 2198): earlier payloads before the packet's own.

/// A payload's blocks.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct RedBlocks<'a> {
    /// Of earlier packets: how much earlier in units of the RTP clock, and the payload. The oldest comes first.
    pub(super) earlier: Vec<(u32, &'a [u8])>,
    /// The packet's own payload.
    pub(super) own: &'a [u8],
}

impl<'a> RedBlocks<'a> {
    /// None if the payload ends before its blocks do.
    pub(super) fn parse(payload: &'a [u8]) -> Option<Self> {
        let (mut lengths, mut rest) = (Vec::new(), payload);
        loop {
            match rest {
                [first, after @ ..] if first & 0x80 == 0 => {
                    rest = after;
                    break;
                }
                [_, high, middle, low, after @ ..] => {
                    let offset = u32::from(*high) << 6 | u32::from(*middle) >> 2;
                    lengths.push((offset, usize::from(*middle & 0x03) << 8 | usize::from(*low)));
                    rest = after;
                }
                _ => return None,
            }
        }
        let mut earlier = Vec::with_capacity(lengths.len());
        for (offset, length) in lengths {
            let (block, after) = rest.split_at_checked(length)?;
            earlier.push((offset, block));
            rest = after;
        }
        Some(Self { earlier, own: rest })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_read_in_their_order() {
        let payload = [0xef, 0x1e, 0, 1, 0xef, 0x0f, 0, 2, 0x6f, 4, 5, 6, 7, 8];
        let blocks = RedBlocks::parse(&payload).unwrap();
        assert_eq!(blocks.earlier, [(1920, &[4][..]), (960, &[5, 6][..])]);
        assert_eq!(blocks.own, [7, 8]);
        assert_eq!(RedBlocks::parse(&[0x6f, 1]).unwrap(), RedBlocks { earlier: Vec::new(), own: &[1] });
        for end in [0, 3, 8, 11] {
            assert_eq!(RedBlocks::parse(&payload[..end]), None, "{end}");
        }
    }
}
