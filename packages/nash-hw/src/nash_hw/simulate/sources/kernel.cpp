// Simulates an accelerator of compiled layers: kernel NETLIST RUN OUTPUTS RESULT
//
// NETLIST  lines: "module FILE.so", "layer NAME MODULE FOLDER" (FOLDER has its memory files; MODULE -1: an end of the
//          accelerator), "stream SOURCE PORT TARGET PORT BYTES WORDS", layers and modules by number; the ends come first.
// RUN      lines: "KEY VALUE", and "fifo STREAM STYLE DEPTH"; see `Run`.
// OUTPUTS  gets the words that come out, RESULT one JSON object. Each finished frame is a line on stdout.
#include <dlfcn.h>
#include <unistd.h>

#include <fstream>
#include <map>
#include <sstream>

#include "accelerator.h"
#include "verilated.h"
#ifdef NASH_TRACE
#include "trace.h"
#endif

using namespace nash;

struct Run {
    uint64_t frames = 1, max_frames = 1, every = 0, patience = 100000, stall = 0, bubble = 0, seed = 1, careful = 0;
    std::string inputs, trace;
    std::map<int, std::pair<Style, unsigned>> fifos;
};

[[noreturn]] static void fail(const std::string& text, int code = 2) {
    fprintf(stderr, "%s\n", text.c_str());
    exit(code);
}

[[noreturn]] static void fail_to_write(const std::string& path) { fail(path + ": cannot be written", 3); }

static Style style_of(const std::string& name) {
    static const std::map<std::string, Style> known = {
        {"shift", Style::SHIFT}, {"distributed", Style::DISTRIBUTED}, {"block", Style::BLOCK},
        {"ultra", Style::ULTRA}, {"deep", Style::DEEP}};
    const auto found = known.find(name);
    if (found == known.end()) fail("unknown style of a FIFO: " + name);
    return found->second;
}

static Run read_run(const char* path) {
    Run run;
    std::map<std::string, uint64_t*> numbers = {
        {"frames", &run.frames}, {"max_frames", &run.max_frames}, {"every", &run.every}, {"patience", &run.patience},
        {"stall", &run.stall}, {"bubble", &run.bubble}, {"seed", &run.seed}, {"careful", &run.careful}};
    std::ifstream file(path);
    for (std::string line; std::getline(file, line);) {
        std::istringstream words(line);
        std::string key, style;
        words >> key;
        int stream;
        unsigned depth;
        if (key == "inputs") std::getline(words >> std::ws, run.inputs);
        else if (key == "trace") std::getline(words >> std::ws, run.trace);
        else if (key == "fifo" && words >> stream >> style >> depth) run.fifos[stream] = {style_of(style), depth};
        else if (numbers.count(key)) words >> *numbers[key];
        else fail("unknown line: " + line);
    }
    return run;
}

static const Module* load(const std::string& path) {
    void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (!library) fail(dlerror());
    const auto* module = static_cast<const Module*>(dlsym(library, "nash_module"));
    if (!module) fail(path + ": is no compiled layer");
    return module;
}

static void make(Layer& layer, VerilatedContext& context, const std::string& folder) {
    if (!layer.module) {  // an end: one stream, whose wires it owns
        layer.own_data.assign(1 << 16, 0);
        layer.pins.in[0] = layer.pins.out[0] = {&layer.own_valid, &layer.own_ready, layer.own_data.data()};
        return;
    }
    if (chdir(folder.c_str())) fail(folder + ": cannot be entered");
    layer.instance = layer.module->make(&context, layer.name.c_str(), &layer.pins);
    *layer.pins.rst_n = 0;
    *layer.pins.clk = 0;
    layer.module->eval(layer.instance);  // reads the memory files
}

static void read_netlist(const char* path, const Run& run, Accelerator& accelerator, VerilatedContext& context) {
    char* here = getcwd(nullptr, 0);
    std::vector<const Module*> modules;
    std::ifstream file(path);
    for (std::string line; std::getline(file, line);) {
        std::istringstream words(line);
        std::string kind, text;
        words >> kind;
        if (kind == "module") {
            std::getline(words >> std::ws, text);
            modules.push_back(load(text));
        } else if (kind == "layer") {
            auto layer = std::make_unique<Layer>();
            int module;
            words >> layer->name >> module;
            std::getline(words >> std::ws, text);
            layer->module = module < 0 ? nullptr : modules.at(module);
            make(*layer, context, text);
            accelerator.layers.push_back(std::move(layer));
        } else {
            Stream s;
            words >> s.source >> s.source_port >> s.target >> s.target_port >> s.bytes >> s.words;
            const auto found = run.fifos.find(accelerator.streams.size());
            const auto [style, depth] = found == run.fifos.end() ? std::pair{Style::SHIFT, 2u} : found->second;
            s.fifo.set(style, depth, s.bytes);
            accelerator.streams.push_back(std::move(s));
        }
    }
    if (chdir(here)) fail("cannot go back");
    free(here);
    accelerator.connect();
}

class Random {  // xorshift: the same on every machine
  public:
    explicit Random(uint64_t seed) : state_(seed * 0x9E3779B97F4A7C15ull | 1) {}
    bool happens(uint64_t percent) {
        if (!percent) return false;
        state_ ^= state_ << 13;
        state_ ^= state_ >> 7;
        state_ ^= state_ << 17;
        return (state_ >> 16) % 100 < percent;
    }

  private:
    uint64_t state_;
};

// Sends frames, takes what comes out, and finds the steady state: two ends of frames between which as many frames went
// in as came out, with every stream as far in its frame as it was.
class Bench {
  public:
    Bench(Accelerator& accelerator, const Run& run, const char* outputs)
        : accelerator_(accelerator), run_(run), random_(run.seed), outputs_(outputs, std::ios::binary) {
        std::ifstream file(run.inputs, std::ios::binary);
        inputs_.assign(std::istreambuf_iterator<char>(file), {});
        for (size_t i = 0; i < accelerator.streams.size(); i++) {
            if (accelerator.streams[i].source == 0) into_ = i;
            if (accelerator.streams[i].target == 1) from_ = i;
        }
        num_inputs_ = inputs_.size() / accelerator.streams[into_].bytes;
        if (!num_inputs_) fail(run.inputs + ": has no words");
    }

    bool has_written() { return bool(outputs_.flush()); }

    void play() {
#ifdef NASH_TRACE
        std::unique_ptr<Trace> trace;
        if (!run_.trace.empty()) trace = std::make_unique<Trace>(run_.trace, accelerator_);
#endif
        uint64_t quiet = 0;
        while (!is_done()) {
            offer();
            accelerator_.settle();
#ifdef NASH_TRACE
            if (trace) trace->sample(accelerator_);
#endif
            const uint8_t* word = accelerator_.streams[from_].to.data;
            take(word);
            const bool is_early = accelerator_.cycle < next_;  // the next frame may not enter yet
            quiet = accelerator_.clock() || is_early ? 0 : quiet + 1;
            account();
            if (quiet > run_.patience) { is_stuck = true; accelerator_.settle(); return; }
        }
    }

    std::vector<uint64_t> begins, ends;
    bool is_stuck = false;
    uint64_t period = 0, period_cycles = 0;

  private:
    bool is_done() const {
        return ends.size() >= run_.max_frames || (ends.size() >= run_.frames && period);
    }
    void offer() {
        Layer& source = *accelerator_.layers[0];
        Stream& s = accelerator_.streams[into_];
        const bool is_first = sent_ % s.words == 0;
        if (!source.own_valid && sent_ < run_.max_frames * s.words && (!is_first || accelerator_.cycle >= next_) &&
            !random_.happens(run_.bubble)) {
            source.own_valid = 1;
            memcpy(source.own_data.data(), &inputs_[sent_ % num_inputs_ * s.bytes], s.bytes);
        }
        accelerator_.layers[1]->own_ready = !random_.happens(run_.stall);
    }
    void take(const uint8_t* word) {
        const Stream& s = accelerator_.streams[from_];
        if (*s.to.valid && *s.to.ready) outputs_.write(reinterpret_cast<const char*>(word), s.bytes);
    }
    void account() {
        Stream &in = accelerator_.streams[into_], &out = accelerator_.streams[from_];
        const uint64_t now = accelerator_.cycle - 1;
        if (in.pushes) {
            if (sent_ % in.words == 0) { begins.push_back(now); next_ = now + run_.every; }
            sent_++;
            accelerator_.layers[0]->own_valid = 0;
        }
        if (out.pops && out.popped % out.words == 0) {
            ends.push_back(now);
            printf("frame %zu %llu\n", ends.size(), (unsigned long long)now);
            fflush(stdout);
            look_for_period();
        }
    }
    void look_for_period() {
        std::vector<uint64_t> now = {accelerator_.cycle > next_ ? 0 : next_ - accelerator_.cycle};
        for (const Stream& s : accelerator_.streams) {
            now.push_back(s.pushed - ends.size() * s.words);
            now.push_back(s.popped - ends.size() * s.words);
        }
        positions_.push_back(now);
        const size_t count = ends.size();
        if (period || begins.size() >= run_.max_frames) return;  // the last frame has no successor
        for (size_t p = 1; p <= 4 && 2 * p < count; p++) {
            bool is_same = true;
            for (size_t k = 0; k < p; k++)
                is_same &= positions_[count - 1 - k] == positions_[count - 1 - k - p] &&
                           ends[count - 1 - k] - ends[count - 2 - k] == ends[count - 1 - k - p] - ends[count - 2 - k - p];
            if (!is_same) continue;
            period = p;
            period_cycles = ends[count - 1] - ends[count - 1 - p];
            return;
        }
    }

    Accelerator& accelerator_;
    const Run& run_;
    Random random_;
    std::ofstream outputs_;
    std::vector<uint8_t> inputs_;
    std::vector<std::vector<uint64_t>> positions_;
    uint64_t num_inputs_ = 0, sent_ = 0, next_ = 0;
    int into_ = 0, from_ = 0;
};

template <typename T>
static void list(FILE* file, const char* key, const std::vector<T>& values) {
    fprintf(file, "\"%s\": [", key);
    for (size_t i = 0; i < values.size(); i++) fprintf(file, "%s%llu", i ? ", " : "", (unsigned long long)values[i]);
    fprintf(file, "]");
}

static void write_result(const char* path, const Accelerator& accelerator, const Bench& bench) {
    FILE* file = fopen(path, "w");
    if (!file) fail_to_write(path);
    auto number = [](uint64_t value) { return (unsigned long long)value; };
    fprintf(file, "{\"cycles\": %llu, \"is_stuck\": %s, \"period\": %llu, \"period_cycles\": %llu, \"bucket\": %u,\n",
            number(accelerator.cycle), bench.is_stuck ? "true" : "false", number(bench.period),
            number(bench.period_cycles), accelerator.bucket);
    list(file, "begins", bench.begins);
    fprintf(file, ",\n");
    list(file, "ends", bench.ends);
    fprintf(file, ",\n\"streams\": [\n");
    for (size_t i = 0; i < accelerator.streams.size(); i++) {
        const Stream& s = accelerator.streams[i];
        fprintf(file, "%s{\"peak\": %u, \"held\": %u, \"pushed\": %llu, \"popped\": %llu, \"blocked\": %llu, "
                "\"starved\": %llu, \"first\": %llu, \"last\": %llu, \"is_full\": %s, \"is_empty\": %s}",
                i ? ",\n" : "", s.peak, s.fifo.held(), number(s.pushed), number(s.popped), number(s.blocked),
                number(s.starved), number(s.first), number(s.last),
                *s.from.valid && !*s.from.ready ? "true" : "false", *s.to.valid ? "false" : "true");
    }
    fprintf(file, "],\n\"layers\": [\n");
    for (size_t i = 0; i < accelerator.layers.size(); i++) {
        const Layer& layer = *accelerator.layers[i];
        fprintf(file, "%s{\"busy\": %llu, \"waits\": %llu, \"stalls\": %llu, ", i ? ",\n" : "",
                number(layer.cycles[BUSY]), number(layer.cycles[WAITS]), number(layer.cycles[STALLS]));
        list(file, "timeline", layer.timeline);
        fprintf(file, "}");
    }
    fprintf(file, "]}\n");
    if (fclose(file)) fail_to_write(path);
}

int main(int argc, char** argv) {
    if (argc != 5) fail("kernel NETLIST RUN OUTPUTS RESULT");
    VerilatedContext context;
    context.randReset(0);
    const Run run = read_run(argv[2]);
    Accelerator accelerator;
    accelerator.is_careful = run.careful;
    read_netlist(argv[1], run, accelerator, context);
    accelerator.reset(20);
    Bench bench(accelerator, run, argv[3]);
    bench.play();
    if (!bench.has_written()) fail_to_write(argv[3]);
    write_result(argv[4], accelerator, bench);
    for (auto& layer : accelerator.layers)
        if (layer->module) layer->module->drop(layer->instance);
    return 0;
}
