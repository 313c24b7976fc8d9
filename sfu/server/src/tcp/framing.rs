//! Frames on a TCP connection: two bytes of length, big-endian, then the packet (RFC 4571, section 2).

use std::io::{self, Write};

/// The largest frame taken from a client. RTP, DTLS and STUN packets fit a network's MTU; a client that
/// announces a larger frame is disconnected.
pub(crate) const FRAME_BYTES_MAX: usize = 8_192;

/// Bytes that wait to be written on one connection, at most. When it is full, frames are dropped: half a
/// second of video late is no use to anyone.
pub(crate) const WRITE_BUFFER_BYTES_MAX: usize = 256 * 1024;

/// Bytes already written that may stay in front of a write buffer before the rest is moved.
const WRITTEN_BYTES_MAX: usize = 64 * 1024;

const LENGTH_BYTES: usize = 2;

/// A frame is larger than [`FRAME_BYTES_MAX`]. The client's fault.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct FrameTooLarge;

/// Cuts a stream of bytes into frames. Holds at most one frame, and nothing between frames.
#[derive(Debug, Default)]
pub(crate) struct FrameReader {
    /// The beginning of a frame, with its length.
    partial: Vec<u8>,
}

impl FrameReader {
    /// Takes the next bytes of the stream and hands out every frame that they complete. Empty frames, which
    /// some stacks send to keep a connection open, are left out.
    pub(crate) fn feed(
        &mut self,
        mut bytes: &[u8],
        mut on_frame: impl FnMut(&[u8]),
    ) -> Result<(), FrameTooLarge> {
        while !self.partial.is_empty() && !bytes.is_empty() {
            let wanted = match frame_len(&self.partial)? {
                Some(len) => (LENGTH_BYTES + len).saturating_sub(self.partial.len()),
                None => 1,
            };
            let (head, rest) = bytes.split_at_checked(wanted).unwrap_or((bytes, &[]));
            self.partial.extend_from_slice(head);
            bytes = rest;
            if let Some(len) = frame_len(&self.partial)?
                && let Some(frame) = self.partial.get(LENGTH_BYTES..LENGTH_BYTES + len)
            {
                if !frame.is_empty() {
                    on_frame(frame);
                }
                // Connections are many and mostly silent: memory is held while a frame is cut in two only.
                self.partial = Vec::new();
            }
        }
        while let Some(len) = frame_len(bytes)?
            && let Some(frame) = bytes.get(LENGTH_BYTES..LENGTH_BYTES + len)
        {
            if !frame.is_empty() {
                on_frame(frame);
            }
            bytes = bytes.get(LENGTH_BYTES + len..).unwrap_or_default();
        }
        self.partial.extend_from_slice(bytes);
        Ok(())
    }
}

/// The length of the frame that begins here, once both bytes of it are there.
fn frame_len(bytes: &[u8]) -> Result<Option<usize>, FrameTooLarge> {
    match bytes {
        [high, low, ..] => {
            let len = usize::from(u16::from_be_bytes([*high, *low]));
            if len > FRAME_BYTES_MAX { Err(FrameTooLarge) } else { Ok(Some(len)) }
        }
        _ => Ok(None),
    }
}

/// The first frame of `bytes`, without its length, once it is complete.
pub(crate) fn first_frame(bytes: &[u8]) -> Option<&[u8]> {
    let len = frame_len(bytes).ok()??;
    bytes.get(LENGTH_BYTES..LENGTH_BYTES + len)
}

/// The announced length of the first frame of `bytes`, complete or not.
pub(crate) fn first_frame_len(bytes: &[u8]) -> Option<usize> {
    match bytes {
        [high, low, ..] => Some(usize::from(u16::from_be_bytes([*high, *low]))),
        _ => None,
    }
}

/// Frames that wait to be written.
#[derive(Debug, Default)]
pub(crate) struct FrameWriter {
    buffer: Vec<u8>,
    /// Bytes at the front of `buffer` that are written.
    written: usize,
}

impl FrameWriter {
    /// Appends a frame. Returns whether it was taken: false when the buffer is full or the packet is larger
    /// than a frame can be.
    pub(crate) fn push(&mut self, packet: &[u8]) -> bool {
        let Ok(len) = u16::try_from(packet.len()) else { return false };
        if self.pending() + LENGTH_BYTES + packet.len() > WRITE_BUFFER_BYTES_MAX {
            return false;
        }
        self.buffer.extend_from_slice(&len.to_be_bytes());
        self.buffer.extend_from_slice(packet);
        true
    }

    /// Bytes that wait.
    pub(crate) fn pending(&self) -> usize {
        self.buffer.len() - self.written
    }

    /// Writes what the stream takes and returns the number of bytes. A stream that takes nothing more is no
    /// error.
    pub(crate) fn flush(&mut self, stream: &mut impl Write) -> io::Result<usize> {
        let before = self.written;
        let result = self.write_all(stream);
        let written = self.written - before;
        if self.pending() == 0 {
            self.written = 0;
            self.buffer.clear();
            // After a jam, give the memory back.
            self.buffer.shrink_to(WRITTEN_BYTES_MAX);
        } else if self.written > WRITTEN_BYTES_MAX {
            self.buffer.drain(..self.written);
            self.written = 0;
        }
        result.map(|()| written)
    }

    fn write_all(&mut self, stream: &mut impl Write) -> io::Result<()> {
        while let Some(rest) = self.buffer.get(self.written..).filter(|rest| !rest.is_empty()) {
            match stream.write(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => self.written += written,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(chunks: &[&[u8]]) -> Result<Vec<Vec<u8>>, FrameTooLarge> {
        let mut reader = FrameReader::default();
        let mut frames = Vec::new();
        for chunk in chunks {
            reader.feed(chunk, |frame| frames.push(frame.to_vec()))?;
        }
        Ok(frames)
    }

    /// A stream that takes `room` bytes, at most `step` at a time.
    struct Narrow {
        taken: Vec<u8>,
        room: usize,
        step: usize,
    }

    impl Write for Narrow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let len = bytes.len().min(self.step).min(self.room);
            if len == 0 {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            self.room -= len;
            self.taken.extend_from_slice(&bytes[..len]);
            Ok(len)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn frames_survive_any_cut_of_the_stream() {
        let stream =
            [&[0, 3][..], b"abc", &[0, 0], &[0, 1], b"d", &[1, 0], &[9; 256], &[0, 2], b"ef"].concat();
        let expected = vec![b"abc".to_vec(), b"d".to_vec(), vec![9; 256], b"ef".to_vec()];
        for size in 1..=stream.len() {
            let chunks: Vec<&[u8]> = stream.chunks(size).collect();
            assert_eq!(frames(&chunks).unwrap(), expected, "in chunks of {size}");
        }
        for cut in 0..stream.len() {
            let (left, right) = stream.split_at(cut);
            assert_eq!(frames(&[left, right]).unwrap(), expected, "cut at {cut}");
        }
    }

    #[test]
    fn a_frame_over_the_bound_is_refused_before_it_is_held() {
        let mut reader = FrameReader::default();
        assert_eq!(reader.feed(&[0x20], |_| panic!("no frame")), Ok(()));
        assert_eq!(reader.feed(&[0x01], |_| panic!("no frame")), Err(FrameTooLarge));
        assert_eq!(frames(&[&[0xff, 0xff]]), Err(FrameTooLarge));
        let largest = [&[0x20, 0][..], &vec![1; FRAME_BYTES_MAX]].concat();
        assert_eq!(frames(&[&largest]).unwrap()[0].len(), FRAME_BYTES_MAX);
    }

    #[test]
    fn nothing_is_held_between_frames() {
        let mut reader = FrameReader::default();
        reader.feed(&[0, 5, 1, 2], |_| {}).unwrap();
        reader.feed(&[3, 4, 5], |_| {}).unwrap();
        assert_eq!(reader.partial.capacity(), 0);
    }

    #[test]
    fn writing_resumes_where_the_stream_stopped() {
        let mut writer = FrameWriter::default();
        assert!(writer.push(b"hello") && writer.push(b"world"));
        let mut stream = Narrow { taken: Vec::new(), room: 4, step: 3 };
        assert_eq!(writer.flush(&mut stream).unwrap(), 4);
        assert_eq!(writer.pending(), 10);
        stream.room = 100;
        assert_eq!(writer.flush(&mut stream).unwrap(), 10);
        assert_eq!(stream.taken, [&[0, 5][..], b"hello", &[0, 5], b"world"].concat());
        assert_eq!(writer.pending(), 0);
    }

    #[test]
    fn a_full_buffer_drops_whole_frames() {
        let mut writer = FrameWriter::default();
        let packet = vec![7; 1000];
        let taken = (0..1000).filter(|_| writer.push(&packet)).count();
        assert_eq!(taken, WRITE_BUFFER_BYTES_MAX / 1002);
        assert!(writer.pending() <= WRITE_BUFFER_BYTES_MAX);
        assert!(!writer.push(&vec![0; 70_000]));
        // What was taken arrives whole, though the front of the buffer moves.
        let mut stream = Narrow { taken: Vec::new(), room: 70_000, step: 70_000 };
        writer.flush(&mut stream).unwrap();
        assert!(writer.push(&packet), "there is room again");
        stream.room = usize::MAX;
        writer.flush(&mut stream).unwrap();
        let mut arrived = 0;
        FrameReader::default()
            .feed(&stream.taken, |frame| {
                assert_eq!(frame, packet);
                arrived += 1;
            })
            .unwrap();
        assert_eq!(arrived, taken + 1);
    }

    #[test]
    fn the_first_frame_is_seen_once_it_is_whole() {
        assert_eq!(first_frame(&[0]), None);
        assert_eq!(first_frame(&[0, 2, 1]), None);
        assert_eq!(first_frame(&[0, 2, 1, 2, 3]), Some(&[1, 2][..]));
        assert_eq!(first_frame_len(&[0xff, 0xff]), Some(65_535));
    }
}
