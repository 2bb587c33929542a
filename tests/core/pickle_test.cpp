#include "core/pickle.h"

#include "support.h"

#include <vector>

namespace mnemo {
namespace {

using test::expect_error;
using test::peak_bytes_of;
using test::slurp;
using test::TemporaryDirectory;
using namespace std::string_literals;

template <class Write>
std::string pickled(Write&& write) {
  const TemporaryDirectory folder;
  PickleWriter out(folder / "p.pkl");
  write(out);
  out.commit();
  return slurp(folder / "p.pkl");
}

/// Protocol 4, one frame.
std::string framed(const std::string& opcodes) {
  const auto size = static_cast<std::uint64_t>(opcodes.size());
  return "\x80\x04\x95"s + std::string(reinterpret_cast<const char*>(&size), 8) + opcodes;
}

const std::string kReconstruct =
    "cnumpy.core.multiarray\n_reconstruct\n\x94"s
    "cnumpy\nndarray\n\x94"s
    "K\0\x85"s
    "C\x01"s
    "b\x87R(K\x01("s;
const std::string kFloat32 =
    "cnumpy\ndtype\n\x94X\x02\0\0\0f4\x89\x88\x87R"s
    "(K\x03X\x01\0\0\0<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb\x94"s;

TEST(Pickle, NumbersTextAndContainers) {
  EXPECT_EQ(pickled([](auto& out) {
              out.dict([&] {
                out.item("a", 255);
                out.item("b", 256);
                out.item("c", 65536);
                out.item("d", -1);
                out.item("e", std::int64_t{1} << 40);
                out.item("f", 1.0);
                out.item("g");
                out.list([&] { out.value("h"); });
              });
            }),
            framed("}(X\x01\0\0\0aK\xffX\x01\0\0\0bM\0\x01X\x01\0\0\0cJ\0\0\x01\0X\x01\0\0\0dJ\xff\xff\xff\xff"s
                   "X\x01\0\0\0e\x8a\x08\0\0\0\0\0\x01\0\0X\x01\0\0\0fG\x3f\xf0\0\0\0\0\0\0X\x01\0\0\0g](X\x01\0\0\0heu."s));
}

TEST(Pickle, AnArrayAsNumPyReducesIt) {
  const float values[] = {1, 2};
  const auto bytes = pickled([&](auto& out) { out.array(view_of(values, {2, 1})); });
  EXPECT_EQ(bytes, framed(kReconstruct + "K\x02K\x01t"s + kFloat32 + "\x89\x8e\x08\0\0\0\0\0\0\0\0\0\x80\x3f\0\0\0\x40tb."s));
}

TEST(Pickle, NamesAndObjectsAreWrittenOnce) {
  const float value = 0;
  const auto bytes = pickled([&](auto& out) {
    out.list([&] {
      for (int i = 0; i < 2; ++i) out.call("torch", "from_numpy", [&] { out.array(view_of(&value, {})); });
      const auto last = out.remember();
      out.again(last);
    });
  });
  const auto count = [&](std::string_view part) {
    std::size_t found = 0;
    for (auto at = bytes.find(part); at != bytes.npos; at = bytes.find(part, at + 1)) ++found;
    return found;
  };
  EXPECT_EQ(count("from_numpy"), 1u);
  EXPECT_EQ(count("_reconstruct"), 1u);
  EXPECT_EQ(count("f4"), 1u);
  EXPECT_TRUE(bytes.ends_with("\x85R\x94j\x05\0\0\0e."s));
}

TEST(Pickle, LargeElementsLieOutsideOfFrames) {
  const std::vector<std::uint8_t> values(1 << 16, 7);
  const auto bytes = pickled([&](auto& out) {
    out.list([&] {
      out.array(view_of(values.data(), {1 << 16}));
      out.value(1);
    });
  });
  const std::string payload(values.begin(), values.end());
  const auto at = bytes.find(payload);
  ASSERT_NE(at, bytes.npos);
  EXPECT_EQ(bytes.substr(at - 9, 9), "\x8e\0\0\x01\0\0\0\0\0"s);
  EXPECT_EQ(bytes.substr(at + payload.size()), "\x95\x06\0\0\0\0\0\0\0tbK\x01"s + "e."s);
}

TEST(Pickle, AnArrayHasTheElementsOfItsShape) {
  const TemporaryDirectory folder;
  PickleWriter out(folder / "p.pkl");
  expect_error(ExitCode::bug, "fewer elements", [&] { out.array(Dtype::u8, {2}, [&] { out.elements("x"); }); });
  expect_error(ExitCode::bug, "more elements", [&] { out.array(Dtype::u8, {2}, [&] { out.elements("xyz"); }); });
}

TEST(Pickle, NothingIsThereUntilItIsWhole) {
  const TemporaryDirectory folder;
  {
    PickleWriter out(folder / "p.pkl");
    out.value("half");
  }
  EXPECT_TRUE(fs::is_empty(folder.path()));
}

TEST(Pickle, MemoryIsThatOfOnePiece) {
  const TemporaryDirectory folder;
  const std::vector<double> row(1 << 14);
  const auto peak = peak_bytes_of([&] {
    PickleWriter out(folder / "p.pkl");
    out.list([&] {
      for (int i = 0; i < 50; ++i) {
        out.array(view_of(row.data(), {1 << 14}));
        for (int j = 0; j < 100'000; ++j) out.value(j);
      }
    });
    out.commit();
  });
  EXPECT_GT(peak, 0u);  // operator new is counted in this binary
  EXPECT_LT(peak, std::size_t{1} << 20);
}

}  // namespace
}  // namespace mnemo
