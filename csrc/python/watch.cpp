// Whether Python objects and tensors are as they were: what every forward of a patched model asks before it trusts what
// was decided and packed before (squeezebert_fast/patching/structure.py).
//
// A base model has two hundred modules and two hundred parameters, and a short forward has just read all its weights
// past them, so nearly every object that is looked at comes from memory. Here the next ones are asked for while one is
// compared; in Python each wait follows the last.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstddef>
#include <cstdint>
#include <vector>

#include "arguments.h"

namespace py = pybind11;

namespace squeezebert {
namespace {

constexpr size_t kAhead = 12;  // objects asked for before they are compared
constexpr size_t kLine = 64;

template <class Item>
void ask_for(const std::vector<Item>& items, size_t index, PyObject* Item::* object) {
  if (index + kAhead < items.size()) __builtin_prefetch(items[index + kAhead].*object);
}

// Objects compared by identity. All references are borrowed: whoever makes a Watch keeps what it is made of.
class Watch {
 public:
  Watch(const py::list& modules, const py::list& dicts, const py::list& values, const py::list& without,
        const py::str& name, const py::list& attributes, const py::list& classes)
      : name_(name) {
    for (const py::handle module : modules) modules_.push_back({module.ptr(), Py_TYPE(module.ptr())});
    for (const py::handle dict : dicts) dicts_.push_back({dict.ptr(), PyDict_Size(dict.ptr())});
    for (const py::handle value : values) values_.push_back(value.ptr());
    for (const py::handle dict : without) without_.push_back({dict.ptr()});
    for (const py::handle cls : classes) classes_.push_back({cls.ptr(), py::object(cls.attr(name_))});
    for (const py::handle attribute : attributes) {
      const auto parts = py::reinterpret_borrow<py::tuple>(attribute);
      attributes_.push_back({py::handle(parts[0]).ptr(), py::handle(parts[1]).ptr(), py::handle(parts[2]).ptr()});
    }
  }

  bool unchanged() const {
    for (size_t i = 0; i < modules_.size(); ++i) {
      ask_for(modules_, i, &Module::object);
      if (Py_TYPE(modules_[i].object) != modules_[i].type) return false;
    }
    size_t seen = 0;
    for (size_t i = 0; i < dicts_.size(); ++i) {
      ask_for(dicts_, i, &Dict::object);
      if (PyDict_Size(dicts_[i].object) != dicts_[i].size) return false;
      PyObject *key, *value;
      for (Py_ssize_t place = 0; PyDict_Next(dicts_[i].object, &place, &key, &value);) {
        if (value != values_[seen++]) return false;
      }
    }
    for (size_t i = 0; i < without_.size(); ++i) {
      ask_for(without_, i, &Without::object);
      if (checked(PyDict_Contains(without_[i].object, name_.ptr()))) return false;
    }
    for (size_t i = 0; i < attributes_.size(); ++i) {
      ask_for(attributes_, i, &Attribute::object);
      const auto& [dict, key, wanted] = attributes_[i];
      PyObject* value = PyDict_GetItemWithError(dict, key);
      if (value == wanted) continue;
      if (value == nullptr) {
        if (PyErr_Occurred()) throw py::error_already_set();
        return false;
      }
      const py::object kept = py::reinterpret_borrow<py::object>(value);  // a comparison may run any code
      if (!checked(PyObject_RichCompareBool(value, wanted, Py_EQ))) return false;
    }
    for (const Class& c : classes_) {
      const py::object now = py::reinterpret_steal<py::object>(PyObject_GetAttr(c.object, name_.ptr()));
      if (!now) throw py::error_already_set();
      if (!now.is(c.value)) return false;
    }
    return true;
  }

 private:
  struct Module {
    PyObject* object;
    PyTypeObject* type;
  };
  struct Dict {
    PyObject* object;
    Py_ssize_t size;
  };
  struct Without {
    PyObject* object;
  };
  struct Class {
    PyObject* object;
    py::object value;  // of its attribute `name`
  };
  struct Attribute {
    PyObject *object, *key, *value;  // of a dict
  };

  static bool checked(int answer) {
    if (answer < 0) throw py::error_already_set();
    return answer > 0;
  }

  std::vector<Module> modules_;
  std::vector<Dict> dicts_;
  std::vector<PyObject*> values_;  // of all the dicts, in their order
  std::vector<Without> without_;
  py::str name_;
  std::vector<Attribute> attributes_;
  std::vector<Class> classes_;
};

// Where tensors keep their values, and how often they were written to. References are borrowed, as above.
class TensorWatch {
 public:
  // impls, storages: addresses of what torch keeps of each tensor, which are asked for and never read. place, version:
  // callables that give the address of a tensor's values, and its version.
  TensorWatch(const py::list& tensors, const std::vector<uintptr_t>& impls, const std::vector<uintptr_t>& storages,
              py::object place, py::object version)
      : place_(std::move(place)), version_(std::move(version)) {
    for (size_t i = 0; i < impls.size(); ++i) {
      PyObject* tensor = py::handle(tensors[i]).ptr();
      tensors_.push_back({tensor, at<const char>(impls[i]), at<const char>(storages[i]), number(place_, tensor),
                          number(version_, tensor)});
    }
  }

  bool unchanged() const {
    for (size_t i = 0; i < tensors_.size(); ++i) {
      if (i + kAhead < tensors_.size()) {
        const Tensor& next = tensors_[i + kAhead];
        __builtin_prefetch(next.object);
        __builtin_prefetch(next.storage);
        for (size_t line = 0; line < 3; ++line) __builtin_prefetch(next.impl + line * kLine);
      }
      const Tensor& t = tensors_[i];
      if (number(place_, t.object) != t.place || number(version_, t.object) != t.version) return false;
    }
    return true;
  }

 private:
  struct Tensor {
    PyObject* object;
    const char *impl, *storage;
    uint64_t place, version;
  };

  static uint64_t number(const py::object& of, PyObject* tensor) {
    const py::object found = py::reinterpret_steal<py::object>(PyObject_CallOneArg(of.ptr(), tensor));
    if (!found) throw py::error_already_set();
    const uint64_t value = PyLong_AsUnsignedLongLong(found.ptr());
    if (PyErr_Occurred()) throw py::error_already_set();
    return value;
  }

  std::vector<Tensor> tensors_;
  py::object place_, version_;
};

}  // namespace

void bind_watch(py::module_& m) {
  py::class_<Watch>(m, "Watch")
      .def(py::init<const py::list&, const py::list&, const py::list&, const py::list&, const py::str&, const py::list&,
                    const py::list&>(),
           py::arg("modules"), py::arg("dicts"), py::arg("values"), py::arg("without"), py::arg("name"),
           py::arg("attributes"), py::arg("classes"))
      .def("unchanged", &Watch::unchanged,
           "Whether modules are of the same classes, dicts hold the same values, `name` is in none of `without`, "
           "attributes, (dict, key, value), are equal, and `name` of classes is the same.");
  py::class_<TensorWatch>(m, "TensorWatch")
      .def(py::init<const py::list&, const std::vector<uintptr_t>&, const std::vector<uintptr_t>&, py::object,
                    py::object>(),
           py::arg("tensors"), py::arg("impls"), py::arg("storages"), py::arg("place"), py::arg("version"))
      .def("unchanged", &TensorWatch::unchanged, "Whether places and versions of all tensors are as they were.");
}

}  // namespace squeezebert
