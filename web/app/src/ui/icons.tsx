import type { ReactNode } from 'react';

/** Line icons on a 24 unit square. They are decoration: the buttons around them carry the words. */
function Icon({ children, size = 22 }: { children: ReactNode; size?: number }) {
  return (
    <svg
      aria-hidden="true"
      width={size}
      height={size}
      viewBox="0 0 24 24"
      fill="none"
      stroke="currentColor"
      strokeWidth="1.8"
      strokeLinecap="round"
      strokeLinejoin="round"
    >
      {children}
    </svg>
  );
}

interface IconProps {
  size?: number;
}

const SLASH = <path d="M4 4l16 16" />;

export const MicrophoneIcon = ({ size }: IconProps) => (
  <Icon size={size}>
    <rect x="9" y="3" width="6" height="11" rx="3" />
    <path d="M5.5 11.5a6.5 6.5 0 0 0 13 0M12 18v3" />
  </Icon>
);

export const MicrophoneOffIcon = ({ size }: IconProps) => (
  <Icon size={size}>
    <path d="M9 9v2a3 3 0 0 0 4.6 2.5M15 10.5V6a3 3 0 0 0-5.7-1.3" />
    <path d="M5.5 11.5a6.5 6.5 0 0 0 10.8 4.9M18.5 11.5a6.4 6.4 0 0 1-.5 2.5M12 18v3" />
    {SLASH}
  </Icon>
);

export const CameraIcon = ({ size }: IconProps) => (
  <Icon size={size}>
    <rect x="3" y="6" width="12" height="12" rx="2.5" />
    <path d="m15 11 6-3.5v9L15 13" />
  </Icon>
);

export const CameraOffIcon = ({ size }: IconProps) => (
  <Icon size={size}>
    <path d="M6.5 6H5.5A2.5 2.5 0 0 0 3 8.5v7A2.5 2.5 0 0 0 5.5 18h7a2.5 2.5 0 0 0 2.2-1.3M11 6h1.5A2.5 2.5 0 0 1 15 8.5V11l6-3.5v9l-2.5-1.46" />
    {SLASH}
  </Icon>
);

export const SpeakerIcon = ({ size }: IconProps) => (
  <Icon size={size}>
    <path d="M4 9.5v5h3.5L12 18.5v-13L7.5 9.5zM15.5 9a4.2 4.2 0 0 1 0 6M18 6.5a7.8 7.8 0 0 1 0 11" />
  </Icon>
);

export const ScreenIcon = ({ size }: IconProps) => (
  <Icon size={size}>
    <rect x="3" y="4" width="18" height="13" rx="2.5" />
    <path d="M12 13.5V8m-2.5 2.3L12 7.8l2.5 2.5M8.5 20.5h7" />
  </Icon>
);

export const SettingsIcon = ({ size }: IconProps) => (
  <Icon size={size}>
    <path d="M4 7h8m5 0h3M4 17h3m5 0h8" />
    <circle cx="14.5" cy="7" r="2.5" />
    <circle cx="9.5" cy="17" r="2.5" />
  </Icon>
);

export const LinkIcon = ({ size }: IconProps) => (
  <Icon size={size}>
    <path d="M10 14a4 4 0 0 0 5.7 0l3-3a4 4 0 0 0-5.7-5.7l-1 1M14 10a4 4 0 0 0-5.7 0l-3 3a4 4 0 0 0 5.7 5.7l1-1" />
  </Icon>
);

export const PeopleIcon = ({ size }: IconProps) => (
  <Icon size={size}>
    <circle cx="9" cy="8.5" r="3.5" />
    <path d="M2.5 19.5a6.5 6.5 0 0 1 13 0M15.5 5.3a3.5 3.5 0 0 1 0 6.4M18 14.2a6.5 6.5 0 0 1 3.5 5.3" />
  </Icon>
);

export const LeaveIcon = ({ size }: IconProps) => (
  <Icon size={size}>
    <path d="M3 14.5c0-5.5 18-5.5 18 0v1.2a1.3 1.3 0 0 1-1.6 1.3l-2.7-.6a1.3 1.3 0 0 1-1-1.3v-1.7a14 14 0 0 0-7.4 0v1.7a1.3 1.3 0 0 1-1 1.3l-2.7.6A1.3 1.3 0 0 1 3 15.7z" />
  </Icon>
);

export const CloseIcon = ({ size }: IconProps) => (
  <Icon size={size}>
    <path d="M6 6l12 12M18 6 6 18" />
  </Icon>
);

export const WarningIcon = ({ size }: IconProps) => (
  <Icon size={size}>
    <path d="M12 4 2.8 19.5h18.4zM12 10v4.5M12 17.2v.1" />
  </Icon>
);

/** Three bars of connection quality; bars above the level are faint. */
export function QualityIcon({ bars, size = 16 }: { bars: number; size?: number }) {
  return (
    <svg aria-hidden="true" width={size} height={size} viewBox="0 0 16 16" fill="currentColor">
      {[0, 1, 2].map((bar) => (
        <rect
          key={bar}
          x={1.5 + bar * 4.8}
          y={10 - bar * 4}
          width="3.2"
          height={4.5 + bar * 4}
          rx="1"
          opacity={bar < bars ? 1 : 0.3}
        />
      ))}
    </svg>
  );
}
