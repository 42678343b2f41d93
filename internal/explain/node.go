package explain

// Why a node does not start (3000 on), and why one that runs ends or refuses (4000 on).
const (
	DataDirInUse    ID = 3001
	DataDirForeign  ID = 3002
	DataDirVersion  ID = 3003
	DataDirDamaged  ID = 3004
	DataDirReadOnly ID = 3005
	DataDirNoDir    ID = 3006
	DataDirDenied   ID = 3007
	DataDirUnread   ID = 3008

	AddressInUse   ID = 3010
	AddressRefused ID = 3011

	NodeFailed        ID = 4000
	WriteFailed       ID = 4001
	DiskFull          ID = 4002
	ReadOnlyDisk      ID = 4003
	DataDirLost       ID = 4004
	CatalogUnreadable ID = 4005
	DiskAlmostFull    ID = 4010
	StoppedBadly      ID = 4020
	StoppedAtOnce     ID = 4021
)

var nodeEntries = []Entry{
	{DataDirInUse, "the data directory is in use", "Another process, which the message names, runs on it; two would destroy it.", "Stop that process first, or name another directory."},
	{DataDirForeign, "the data directory is not a node's", "It holds other things and no node.json, or files of another cluster or partition.", "Name an empty directory, or put back what belongs there."},
	{DataDirVersion, "the data directory is of another version", "Another version of Tidewire wrote it, and this one does not read all of it. Nothing is damaged, and nothing was changed.", "Run the version that wrote it."},
	{DataDirDamaged, "the data directory is damaged", "A file that the node needs is missing, does not pass its checksum or does not fit the others. Nothing was changed.",
		"Copy the directory away, then run `tidewire log verify DIR`, which names what is damaged. A sealed segment (a .seg with an .idx of the same number beside it, here and in the copy) may be put back alone, from a copy of the same node; manifests, snapshots and votes must not. Otherwise put the whole directory back, without the records that were stored since that copy was made."},
	{DataDirReadOnly, "the data directory is on a read-only file system", "It is mounted read-only, perhaps by the kernel after an error (see dmesg).", "Name a directory that can be written to, or check the file system and mount it for writing."},
	{DataDirNoDir, "the data directory is no directory", "The path, or a part of it, is a file; or it lies on a file system on which no directory can be made, such as /proc.", "Name a directory, on a file system of a disk."},
	{DataDirDenied, "the data directory may not be written to", "The user the node runs as has no right to.", "Give the directory to that user, or name another."},
	{DataDirUnread, "the disk cannot be read", "The kernel reported an error of reading a file that was written last, and what was acknowledged last may stand there. Nothing was changed.",
		"Look at the disk (dmesg, SMART), its cable and its volume, then start the node again. If the file stays unreadable, copy the data directory away, make a copy of the file with zeros in place of what cannot be read (ddrescue does), and put it in its place: what was acknowledged there is lost then, and all else is served; of a file of catalog/, put that directory back from a copy instead."},
	{AddressInUse, "the address is in use", "Another process listens there, perhaps another node.", "Stop that one, or give another address with --listen; port 0 takes a free one."},
	{AddressRefused, "the address cannot be had", "It is no address of this machine, or this user may not bind its port.", "Give an address of this machine with --listen, and a port above 1023."},

	{NodeFailed, "the node failed", "Something went wrong that should not have; the log line says what.", "Start the node again, and report it with the log."},
	{WriteFailed, "a write failed", "The kernel reported an error of a write or sync. Nothing more was acknowledged; what was acknowledged is on disk. A failed sync is never tried again: the kernel may have dropped what it could not write.",
		"Look at the disk (dmesg, SMART), then start the node again: it recovers what is on disk."},
	{DiskFull, "the disk is full", "Something else filled the disk faster than the node could refuse publishes, or the node was told to keep no space free. Nothing acknowledged is lost.",
		"Free space on the file system of the data directory (df), then start the node again. While it is stopped the files in pool/ and the file reserve may be removed from the directory, as they hold no data; nothing else may."},
	{ReadOnlyDisk, "the file system became read-only", "Somebody remounted it, or the kernel did after an error. Nothing acknowledged is lost.",
		"Look at dmesg, check the file system (fsck), mount it for writing, then start the node again."},
	{DataDirLost, "the data directory is gone", "It was removed, replaced or unmounted while the node ran. The node stops rather than acknowledge into files that nobody would find.",
		"Mount it or put it back, then start the node again."},
	{CatalogUnreadable, "the catalog cannot be read", "The log of what streams there are is damaged or does not decode. Nothing was changed or deleted.",
		"Copy the data directory away, then put its directory catalog/ back from a copy of the same node. A node with an older catalog/ starts without the streams that were made since, leaves their files alone, and gives nothing up for retention or age until its file catalog.older is removed: streams are as they were then."},
	{DiskAlmostFull, "the disk is almost full", "Less is free than the node keeps (by default the smaller of 5 % and 1 GiB). Publishes and new streams are refused, clients try again by themselves; reads, deletes and retention go on.",
		"Free space, or shorten the retention of streams, or delete some. A deleted stream gives its space back only after its grace time (24 hours, unless streams.delete-grace says otherwise), or at once with `tidewire stream purge NAME`. Publishing goes on by itself within seconds of there being space."},
	{StoppedBadly, "the node did not stop in good order", "Something could not be closed; the message says what. Nothing acknowledged is lost.", "Start the node again: it recovers by itself."},
	{StoppedAtOnce, "the node was stopped at once", "A second signal came while the node was draining. Nothing acknowledged is lost.", "Start the node again: it recovers by itself. To let clients finish, send one signal and wait."},
}
