import { LinkIcon, PeopleIcon } from '../ui/icons';
import { copyText } from './clipboard';

export interface TopBarProps {
  roomName: string;
  count: number;
  peopleOpen: boolean;
  onPeople: () => void;
  link: string;
  notify: (text: string) => void;
}

const BUTTON =
  'inline-flex h-11 min-w-11 shrink-0 items-center justify-center gap-2 rounded-full px-3 text-sm font-medium transition-colors hover:bg-hover bg-raised';

export function TopBar({ roomName, count, peopleOpen, onPeople, link, notify }: TopBarProps) {
  const copy = async () => {
    const copied = await copyText(link);
    notify(copied ? 'Invite link copied' : `Copy this link to invite others: ${link}`);
  };
  return (
    <header className="flex shrink-0 items-center gap-2">
      <p className="min-w-0 flex-1 truncate pl-2 font-semibold tracking-tight" title={roomName}>
        {roomName}
      </p>
      <button
        type="button"
        data-testid="copy-invite"
        className={BUTTON}
        aria-label="Copy invite link"
        onClick={() => void copy()}
      >
        <LinkIcon size={20} />
        <span className="hidden sm:inline">Copy invite link</span>
      </button>
      <button
        type="button"
        className={BUTTON}
        aria-haspopup="dialog"
        aria-expanded={peopleOpen}
        aria-label={`People in the call: ${count}`}
        onClick={onPeople}
      >
        <PeopleIcon size={20} />
        <span data-testid="participant-count" className="tabular-nums">
          {count}
        </span>
      </button>
    </header>
  );
}
