// Shell completion and man pages, from the table of commands and that of attuned's knobs.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <span>

#include "agent/cli/command.h"

namespace attune::cli {
namespace {

bool IsVerb(const Command& command) { return command.name.find(' ') != std::string_view::npos; }

// How a shell finds the values of a flag or an unnamed word.
std::string ValuesOf(const Flag& flag) {
  if (!flag.words.empty()) return std::string(flag.words);
  return flag.value == "FILE" || flag.value == "DIR" ? std::string(flag.value) : std::string();
}

std::string WordsOf(const Knob& knob) { return fmt::format("{}", fmt::join(knob.words, " ")); }

// The branches of a `case`: for "attune COMMAND" its flags, for "attune COMMAND --flag" and for
// "attune COMMAND @N", the N-th unnamed word, the values that there are.
std::string Cases() {
  std::string text;
  const auto add = [&](const std::string& key, const std::string& values) {
    text += fmt::format("    '{}') values='{}' ;;\n", key, values);
  };
  std::string names;
  for (const Command& command : Commands()) {
    if (!IsVerb(command)) names += fmt::format("{} ", command.name);
  }
  add("attune @0", names + "help version");
  add("attune", "--help --version");
  for (const Command& command : Commands()) {
    const std::string key = fmt::format("attune {}", command.name);
    std::string dashed;
    const auto add_flag = [&](std::string_view name, bool is_switch, const std::string& values) {
      dashed += fmt::format("{}--{}", dashed.empty() ? "" : " ", name);
      if (!is_switch) add(fmt::format("{} --{}", key, name), values);
    };
    for (const Flag& flag : command.flags) {
      add_flag(flag.name, flag.kind == Kind::kSwitch, ValuesOf(flag));
    }
    for (const Flag& flag : CommonFlags()) {
      add_flag(flag.name, flag.kind == Kind::kSwitch, ValuesOf(flag));
    }
    for (const Knob& knob : command.every_knob ? Knobs() : std::span<const Knob>()) {
      if (std::ranges::find(CommonFlags(), knob.name, &Flag::name) == CommonFlags().end()) {
        add_flag(knob.name, false, WordsOf(knob));
      }
    }
    add(key, dashed);
    for (std::size_t i = 0; i < command.unnamed.size(); ++i) {
      const Flag& word = command.unnamed[i];
      add(fmt::format("{} @{}", key, word.many ? "*" : std::to_string(i)), ValuesOf(word));
    }
  }
  return text;
}

// Both scripts walk over the words before the cursor: they find the command and its verb (key), how
// many unnamed words there were, and whether the last word is a flag that waits for its value.
constexpr const char* kBash = R"(# bash completion of attune, by `attune completion bash`.
_attune_values() {{
  case "$1" in
{}    *) return 1 ;;
  esac
}}
_attune() {{
  local cursor="${{COMP_WORDS[COMP_CWORD]}}" key=attune number=0 pending= values= word last=
  [[ $cursor == = ]] && cursor= last==
  for word in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}" $last; do
    if [[ $word == = ]]; then
      [[ -z $pending ]] && pending==  # within a value, NAME=VALUE: it goes on
      continue
    elif [[ -n $pending ]]; then
      pending=
    elif [[ $word == -- ]]; then
      pending=--
      break
    elif [[ $word == -* ]]; then
      _attune_values "$key $word" && pending=$word
    elif _attune_values "$key $word"; then
      key="$key $word" number=0
    else
      number=$((number + 1))
    fi
  done
  values=
  if [[ $pending == -- ]]; then
    values=FILE
  elif [[ -n $pending ]]; then
    _attune_values "$key $pending"
  elif [[ $cursor == -* ]]; then
    _attune_values "$key"
  else
    _attune_values "$key @$number" || _attune_values "$key @*"
  fi
  COMPREPLY=()
  case "$values" in
    FILE | DIR)
      compopt -o filenames 2>/dev/null
      [[ $values == FILE ]] && word=-f || word=-d
      while IFS= read -r word; do COMPREPLY+=("$word"); done < <(compgen $word -- "$cursor")
      ;;
    *) while IFS= read -r word; do COMPREPLY+=("$word"); done < <(compgen -W "$values" -- "$cursor") ;;
  esac
}}
complete -F _attune attune
)";

constexpr const char* kZsh = R"(#compdef attune
# zsh completion of attune, by `attune completion zsh`.
_attune_values() {{
  case "$1" in
{}    *) return 1 ;;
  esac
}}
_attune() {{
  local cursor="$words[CURRENT]" key=attune number=0 pending= values= word
  for word in "${{(@)words[2,CURRENT-1]}}"; do
    if [[ -n $pending ]]; then
      pending=
    elif [[ $word == -- ]]; then
      pending=--
      break
    elif [[ $word == --*=* ]]; then
      continue
    elif [[ $word == -* ]]; then
      _attune_values "$key $word" && pending=$word
    elif _attune_values "$key $word"; then
      key="$key $word" number=0
    else
      number=$((number + 1))
    fi
  done
  values=
  if [[ $pending == -- ]]; then
    values=FILE
  elif [[ -z $pending && $cursor == --*=* ]]; then
    compset -P '*='
    _attune_values "$key ${{cursor%%=*}}"
  elif [[ -n $pending ]]; then
    _attune_values "$key $pending"
  elif [[ $cursor == -* ]]; then
    _attune_values "$key"
  else
    _attune_values "$key @$number" || _attune_values "$key @*"
  fi
  case "$values" in
    FILE) _files ;;
    DIR) _files -/ ;;
    *) compadd -- ${{=values}} ;;
  esac
}}
if [[ $funcstack[1] == _attune ]]; then _attune "$@"; else compdef _attune attune; fi
)";

// Text as roff: its dashes are minus signs, and no line of it is a request.
std::string Roff(std::string_view text) {
  std::string roff;
  bool begins = true;
  for (const char c : text) {
    if (begins && (c == '.' || c == '\'')) roff += "\\&";
    begins = c == '\n';
    if (c == '\\') {
      roff += "\\e";
    } else if (c == '-') {
      roff += "\\-";
    } else {
      roff += c;
    }
  }
  return roff;
}

std::string Heading(std::string_view name, std::string_view summary) {
  return fmt::format(".TH {} 1 \"\" \"attune {}\" \"attune\"\n.SH NAME\n{} \\- {}\n", name,
                     ATTUNE_VERSION, name, Roff(summary));
}

std::string Item(const Flag& flag, bool unnamed) {
  std::string head;
  if (unnamed) {
    head = fmt::format("\\fI{}\\fR", Roff(flag.value));
  } else {
    head = fmt::format("\\fB\\-\\-{}\\fR", Roff(flag.name));
    if (!flag.value.empty()) head += fmt::format(" \\fI{}\\fR", Roff(flag.value));
  }
  std::string text = fmt::format(".TP\n{}\n{}", head, Roff(flag.help));
  if (!flag.words.empty()) text += Roff(fmt::format(": {}", fmt::join(Words(flag), ", ")));
  if (!flag.fallback.empty()) text += Roff(fmt::format(" (default {})", flag.fallback));
  return text + "\n";
}

std::string ManOfAttune() {
  std::string text =
      Heading("attune", "tune the attention of training jobs, and query what was tried");
  text += ".SH SYNOPSIS\n.B attune\n.I COMMAND\n…\n.SH COMMANDS\n";
  for (const Command& command : Commands()) {
    text += fmt::format(".SS {}\n.B attune {}\n{}\n.PP\n{}\n", Roff(command.name),
                        Roff(command.name), Roff(command.usage), Roff(command.summary));
    if (!command.about.empty()) text += fmt::format(".PP\n{}", Roff(command.about));
    for (const Flag& flag : command.unnamed) text += Item(flag, true);
    for (const Flag& flag : command.flags) text += Item(flag, false);
    text += fmt::format(".PP\nExample:\n.B attune {}\n", Roff(command.example));
  }
  text += ".SH COMMON FLAGS\n";
  for (const Flag& flag : CommonFlags()) text += Item(flag, false);
  text += Roff(R"(EXIT STATUS
0 done, 1 nothing found or refused, 2 wrong usage, 3 no daemon, no store or a failure; run: the
command's.
)")
              .insert(0, ".SH ");
  return text + ".SH SEE ALSO\n.BR attuned (1)\n";
}

std::string ManOfAttuned() {
  std::string text = Heading("attuned", "tunes the attention of training jobs while they run");
  text +=
      ".SH SYNOPSIS\n.B attuned\n[\\fB\\-\\-config\\fR \\fIFILE\\fR] [flags]\n.SH DESCRIPTION\n";
  text += Roff(
      R"(Trainers with an attune probe connect to its socket; attune run starts a private attuned by itself.
TERM and INT stop it cleanly, HUP reads the configuration anew. The configuration file has lines
name = value with the names of the flags below; a flag goes before the file.
)");
  text += ".SH FLAGS\n";
  text += Item({"config", Kind::kText, "FILE",
                "configuration (default: $XDG_CONFIG_HOME/attune/attuned.conf, or "
                "~/.config/attune/attuned.conf)"},
               false);
  // The two lines of a knob are those of --help.
  for (const Knob& knob : Knobs()) {
    const std::string description = DescribeKnob(knob);
    const std::size_t end = description.find('\n');
    text += fmt::format(".TP\n\\fB\\-\\-{}\\fR\n{}\n", Roff(knob.name),
                        Roff(description.substr(0, end)));
    if (end != std::string::npos) {
      text += fmt::format(".br\n{}\n", Roff(description.substr(end + 1)));
    }
  }
  text += Item({"version", Kind::kSwitch, "", "version"}, false);
  text += Item({"help", Kind::kSwitch, "", "the flags"}, false);
  return text +
         ".SH EXIT STATUS\n0 stopped, 2 wrong usage, 3 failure.\n.SH SEE ALSO\n.BR attune (1)\n";
}

}  // namespace

int Completion(const std::vector<std::string>& words) {
  const Arguments arguments = Parse("completion", words);
  if (!arguments.Has("shell")) throw UsageError("of which shell? give bash or zsh");
  const bool bash = arguments.Get<std::string>("shell") == "bash";
  fmt::print("{}", fmt::format(fmt::runtime(bash ? kBash : kZsh), Cases()));
  return kOk;
}

int PrintManPage(const std::vector<std::string>& words) {
  if (words != std::vector<std::string>{"attune"} && words != std::vector<std::string>{"attuned"}) {
    fmt::print(stderr, "attune man: give attune or attuned\n");
    return kUsage;
  }
  fmt::print("{}", words[0] == "attune" ? ManOfAttune() : ManOfAttuned());
  return kOk;
}

}  // namespace attune::cli
