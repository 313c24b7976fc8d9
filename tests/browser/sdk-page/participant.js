// A participant without a user interface: what a page of the test programs calls to be in a room.
const { ExternalE2EEKeyProvider, Room, RoomEvent, Track, VideoQuality } = window.LivekitClient;

const received = [];

window.__zynk = { room: undefined };

/**
 * Joins and, unless `publish` is false, sends camera and microphone, the camera as `codec` with the layers
 * of `scalabilityMode`, and as `backupCodec` for those who do not decode that; `backupCodecPolicy` is
 * livekit-client's. With `dual` it has a connection for each direction; as `old` it is, in addition, one from
 * before calls and short data streams changed their form on the wire. With `dynacast` it stops what nobody watches; without
 * `autoSubscribe` it receives what it asks for with `window.subscribe`. With `secret` all that it sends is encrypted
 * from end to end. `rtcConfig` is livekit-client's.
 */
window.join = async ({ url, token, codec, backupCodec, backupCodecPolicy, scalabilityMode, width = 640, height = 360, fps = 20, publish = true, dual = false, old = false, dynacast = false, autoSubscribe = true, secret, rtcConfig }) => {
  const room = new Room({
    singlePeerConnection: !dual && !old,
    dynacast,
    encryption: secret && (await encryption(secret)),
    publishDefaults: {
      videoCodec: codec,
      scalabilityMode,
      backupCodec: backupCodec ? { codec: backupCodec } : false,
      backupCodecPolicy,
      simulcast: codec === 'vp8' || codec === undefined,
    },
    videoCaptureDefaults: { resolution: { width, height, frameRate: fps } },
  });
  window.__zynk.room = room;
  window.exchangeData(room);
  if (old) beOld(room);
  if (secret) await room.setE2EEEnabled(true);
  room.on(RoomEvent.TrackSubscribed, (track) => {
    const element = track.attach();
    // Audio that is not played is not decoded, and its energy not counted.
    document.body.append(element);
  });
  room.on(RoomEvent.DataReceived, (payload, participant, _kind, topic) => {
    received.push({ from: participant?.identity, topic, text: new TextDecoder().decode(payload) });
  });
  await room.connect(url, token, { autoSubscribe, rtcConfig });
  if (publish) {
    await room.localParticipant.enableCameraAndMicrophone();
  }
};

async function encryption(secret) {
  const keyProvider = new ExternalE2EEKeyProvider();
  await keyProvider.setKey(secret);
  return { keyProvider, worker: new Worker('/livekit-client.e2ee.worker.js') };
}

/** Announces client protocol 0, and takes everybody to have it. */
function beOld(room) {
  window.WebSocket = class extends WebSocket {
    constructor(url, ...rest) {
      super(url.replace(/client_protocol=\d+/, 'client_protocol=0'), ...rest);
    }
  };
  room.on(RoomEvent.ParticipantConnected, (participant) => {
    participant.clientProtocol = 0;
  });
}

/** Sends camera and microphone through WHIP (RFC 9725), the camera as `codec`: without livekit-client. */
window.publishWhip = async ({ endpoint, token, codec, width = 640, height = 360, fps = 20 }) => {
  const media = await navigator.mediaDevices.getUserMedia({ audio: true, video: { width, height, frameRate: fps } });
  const connection = new RTCPeerConnection();
  window.__whip = connection;
  connection.addTransceiver(media.getAudioTracks()[0], { direction: 'sendonly' });
  const video = connection.addTransceiver(media.getVideoTracks()[0], { direction: 'sendonly' });
  const codecs = RTCRtpReceiver.getCapabilities('video').codecs;
  video.setCodecPreferences(codecs.filter(({ mimeType }) => mimeType.toLowerCase() === `video/${codec}`));
  await connection.setLocalDescription();
  const response = await fetch(endpoint, {
    method: 'POST',
    headers: { authorization: `Bearer ${token}`, 'content-type': 'application/sdp' },
    body: connection.localDescription.sdp,
  });
  const answer = await response.text();
  if (response.status !== 201) throw new Error(`WHIP: ${response.status} ${answer}`);
  await connection.setRemoteDescription({ type: 'answer', sdp: answer });
};

/** Asks for `quality` ('LOW', 'MEDIUM' or 'HIGH') of the camera of `identity`. */
window.setVideoQuality = (identity, quality) =>
  window.__zynk.room.remoteParticipants
    .get(identity)
    .getTrackPublication(Track.Source.Camera)
    .setVideoQuality(VideoQuality[quality]);

/** Begins or stops to receive the camera of `identity`. */
window.subscribe = (identity, subscribed) =>
  window.__zynk.room.remoteParticipants.get(identity).getTrackPublication(Track.Source.Camera).setSubscribed(subscribed);

/** Bytes of video that have been sent, headers and retransmissions included. */
window.videoBytesSent = async () => {
  const report = await window.__zynk.room.localParticipant.getTrackPublication(Track.Source.Camera).track.getRTCStatsReport();
  let bytes = 0;
  report.forEach((entry) => {
    if (entry.type === 'outbound-rtp') bytes += entry.bytesSent + entry.headerBytesSent;
  });
  return bytes;
};

window.sendData = (text, options) => window.__zynk.room.localParticipant.publishData(new TextEncoder().encode(text), options);
window.receivedData = () => received;
window.microphoneMuted = () => window.__zynk.room.localParticipant.getTrackPublication(Track.Source.Microphone)?.isMuted;
