package explain

// configEntries are what can be wrong with a node's configuration (broker/config).
var configEntries = []Entry{
	{2100, "the configuration cannot be read", "The file named by --config or TIDEWIRE_CONFIG is missing, is a directory, may not be read by this user, or is larger than any configuration.", "Give the path of a file that this user may read; `tidewire config check FILE` tries it."},
	{2101, "the configuration is not YAML", "The file breaks the rules of YAML at the line and column that are named: often a tab, a lost space behind a colon, or an unclosed quote. Text is UTF-8.", "Correct that line. `tidewire config example` prints a file to begin with."},
	{2102, "there is no such setting", "A key of the file, or an environment variable that begins like a setting, is none. It is not ignored, because a limit that is misspelt would not hold.", "Correct the name as suggested, or remove it. `tidewire config example` lists every setting."},
	{2103, "a value of the wrong kind", "The value is no number, duration, number of bytes, or one of the words that the setting takes.", "Write it as the message says: durations 30s, 10m, 36h, 7d or 2w; bytes 4096, 64KiB, 500MB or 10GiB; true or false."},
	{2104, "a value out of its range", "The value is below the smallest or above the largest that the setting may have, which the message names.", "Choose one in the range. docs/reference/configuration.md has all of them."},
	{2105, "a setting is given twice", "The same key stands in the file twice, perhaps once in a section and once with a dot.", "Keep one of them: the message names both places."},
	{2106, "settings do not fit one another", "Each value is allowed, and together they are not: an address that others can reach without insecure, say, or parts of the memory that are more than the whole. Or one that a node cannot do without is missing.", "Do as the message says: it names the settings, their values, and which of them to change."},
}
